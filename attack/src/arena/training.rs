//! The workers that train while the server is attacked.
//!
//! They train in stretches: from a start until a round that is chosen while they run, so that all stop before the same
//! one and the weights can be compared with those of a run that nobody has disturbed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use stepbox_client::{Client, ClientError, ErrorCode, Tensor};
use tokio::task::JoinHandle;

use super::compromised::{Compromised, Mischief};
use super::model::{KEYS, WORKERS};
use crate::in_time;

/// Between two rounds: attacks are to meet rounds under way, not a machine without a moment to spare.
const PAUSE: Duration = Duration::from_millis(8);

/// A worker that does what it should, through the client that everybody uses.
pub struct Honest {
    client: Client,
    rank: usize,
    versions: Versions,
    weights: Vec<Tensor>,
}

/// Of each key, the rounds that are done.
pub type Versions = [u64; KEYS.len()];

/// How a worker's stretch ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum End {
    /// Before the round that was chosen.
    #[default]
    Done,
    /// In a round whose update the optimizer failed. The round is open again.
    OptimizerFailed {
        /// What the server said.
        message: String,
        /// Whether the key has, bit for bit, the weights it had before that round.
        rolled_back: bool,
    },
    /// Before a round that the server does not begin: the optimizer is not trusted any more.
    Paused {
        /// What the server said.
        message: String,
    },
}

impl Honest {
    /// A worker in its place, who knows all keys. The one of rank 0 sends the first values.
    ///
    /// # Errors
    /// The server does not want it.
    pub async fn new(client: Client, rank: usize, first_values: &[Tensor]) -> Result<Self> {
        client.register().await?;
        let mut weights = Vec::new();
        for (key, value) in KEYS.iter().zip(first_values) {
            client.init(key.name, value).await.with_context(|| format!("init of {}", key.name))?;
            weights.push(value.clone());
        }
        Ok(Self { client, rank, versions: Versions::default(), weights })
    }

    /// Trains up to and with round `goal` of each key. Gradients are those of the round's number and `base`: another
    /// run's rounds before this one's first.
    pub async fn train(&mut self, goal: &AtomicU64, progress: &AtomicU64, base: &Versions, pause: bool) -> Result<End> {
        let absolute = |versions: &Versions| versions.iter().zip(base).map(|(own, base)| own + base).min().unwrap_or(0);
        loop {
            let round = absolute(&self.versions) + 1;
            if round > goal.load(Ordering::SeqCst) {
                return Ok(End::Done);
            }
            for (index, key) in KEYS.iter().enumerate() {
                if self.versions[index] + base[index] >= round {
                    continue;
                }
                let gradient = key.gradient(self.rank, round)?;
                match in_time(self.client.push_pull(key.name, &gradient)).await? {
                    Ok(weights) => self.weights[index] = weights,
                    Err(ClientError::Refused { code: ErrorCode::OptimizerFailed, message, .. }) => {
                        let there = self.client.pull_version(key.name, 0).await?;
                        let rolled_back = bits(&there).eq(bits(&self.weights[index]));
                        return Ok(End::OptimizerFailed { message, rolled_back });
                    }
                    Err(ClientError::Refused { code: ErrorCode::Paused, message, .. }) => {
                        return Ok(End::Paused { message });
                    }
                    Err(error) => return Err(error).with_context(|| format!("worker {}, {}", self.rank, key.name)),
                }
                self.versions[index] += 1;
            }
            progress.fetch_max(round, Ordering::SeqCst);
            if pause {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Rounds done.
    pub fn versions(&self) -> Versions {
        self.versions
    }

    /// The weights as last pulled.
    pub fn weights(&self) -> &[Tensor] {
        &self.weights
    }
}

fn bits(tensor: &Tensor) -> impl Iterator<Item = u32> {
    tensor.values().iter().map(|value| value.to_bits())
}

/// All workers of the job that is attacked.
pub struct Training {
    /// Between two stretches.
    resting: Option<(Vec<Honest>, Compromised)>,
    running: Option<Running>,
    /// Rounds done on this server.
    progress: Arc<AtomicU64>,
    /// Rounds done on servers before it.
    earlier: u64,
    mischief: tokio::sync::mpsc::Sender<Mischief>,
}

struct Running {
    goal: Arc<AtomicU64>,
    honest: Vec<JoinHandle<Result<(Honest, End)>>>,
    compromised: JoinHandle<Result<(Compromised, End)>>,
}

/// A goal that is not chosen yet.
const NO_GOAL: u64 = u64::MAX;

impl Training {
    /// With everybody in place.
    pub fn new(honest: Vec<Honest>, compromised: Compromised, mischief: tokio::sync::mpsc::Sender<Mischief>) -> Self {
        debug_assert_eq!(honest.len() + 1, WORKERS);
        let progress = Arc::new(AtomicU64::new(0));
        Self { resting: Some((honest, compromised)), running: None, progress, earlier: 0, mischief }
    }

    /// Rounds done of every key, on this server and on those before it.
    pub fn rounds(&self) -> u64 {
        self.earlier + self.progress.load(Ordering::SeqCst)
    }

    /// Counts what was done on other servers.
    pub fn count_from(&mut self, earlier: u64) {
        self.earlier = earlier;
    }

    /// Where the attacker's worker takes its orders.
    pub fn orders(&self) -> tokio::sync::mpsc::Sender<Mischief> {
        self.mischief.clone()
    }

    /// Has everybody train until [`finish`](Self::finish).
    pub fn start(&mut self) {
        let Some((honest, mut compromised)) = self.resting.take() else { return };
        let goal = Arc::new(AtomicU64::new(NO_GOAL));
        let base = Versions::default();
        let train = |mut worker: Honest| {
            let (goal, progress) = (Arc::clone(&goal), Arc::clone(&self.progress));
            tokio::spawn(async move {
                let end = worker.train(&goal, &progress, &base, true).await?;
                Ok((worker, end))
            })
        };
        let honest = honest.into_iter().map(train).collect();
        let until = Arc::clone(&goal);
        let compromised = tokio::spawn(async move {
            let end = compromised.train(&until).await?;
            Ok((compromised, end))
        });
        self.running = Some(Running { goal, honest, compromised });
    }

    /// Has everybody train for so many rounds more, and then rest.
    ///
    /// # Errors
    /// A worker met what an honest worker should not.
    pub async fn finish(&mut self, more: u64) -> Result<End> {
        // Workers are at most a round apart.
        let goal = self.progress.load(Ordering::SeqCst) + 1 + more;
        self.end(goal).await
    }

    /// Lets everybody train until the optimizer has failed, for so many rounds at most.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub async fn until_failure(&mut self, rounds: u64) -> Result<End> {
        let goal = self.progress.load(Ordering::SeqCst) + 1 + rounds;
        self.end(goal).await
    }

    async fn end(&mut self, goal: u64) -> Result<End> {
        let Some(running) = self.running.take() else { return Ok(End::Done) };
        running.goal.store(goal, Ordering::SeqCst);
        let (mut workers, mut worst) = (Vec::new(), End::Done);
        for handle in running.honest {
            let (worker, end) = in_time(handle).await.context("a worker does not come to its end")???;
            if worst == End::Done || matches!(end, End::OptimizerFailed { rolled_back: false, .. }) {
                worst = end;
            }
            workers.push(worker);
        }
        let (compromised, _) = in_time(running.compromised).await.context("the attacker's worker hangs")???;
        self.resting = Some((workers, compromised));
        Ok(worst)
    }

    /// The weights as the first worker has pulled them, and how many rounds each key has had; while nobody trains.
    pub fn model(&self) -> Option<(&[Tensor], Versions)> {
        let (honest, _) = self.resting.as_ref()?;
        honest.first().map(|worker| (worker.weights(), worker.versions()))
    }
}
