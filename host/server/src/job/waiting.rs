//! Requests that wait for other workers: pulls, barriers, and keys that are not known yet.

use std::sync::Arc;
use std::time::Duration;

use stepbox_wire::{ErrorCode, TensorType};
use tokio::sync::watch;

use super::workers::Worker;
use super::{Job, no_optimizer_for};
use crate::config::Seconds;
use crate::model::{Key, PullState, check_type};
use crate::names::{Answered, Rank, Refusal, TensorId};

/// Keys that a message names: it is to be read, and there can be thousands.
const MAX_NAMED_KEYS: usize = 5;

/// How long a pull that has waited for its whole time-out waits for an update that is just ending.
const SETTLING: Duration = Duration::from_secs(1);

impl Job {
    /// What a pull of a worker, or of somebody who only reads, finds now; `None` where it has to wait.
    pub fn try_pull(&self, key: &Key, rank: Option<Rank>, version: u64) -> Option<Answered<()>> {
        match key.pull_state(rank, version) {
            PullState::Ready => Some(Ok(())),
            PullState::Failed { round, reason } => Some(Err(self.paused(key, round).unwrap_or_else(|| {
                let message = format!(
                    "round {round} of key `{}` failed and its gradients were discarded: {reason}; \
                     the weights are those of version {}, push the round again",
                    key.name,
                    round - 1
                );
                Refusal::new(ErrorCode::OptimizerFailed, message)
            }))),
            PullState::Waiting { round, missing } => {
                if !missing.is_empty()
                    && let Some(paused) = self.paused(key, round)
                {
                    return Some(Err(paused));
                }
                if let Some(rank) = missing.iter().copied().find(|rank| self.is_refused(key, *rank)) {
                    let message = self.refused_for_failures(key, rank);
                    return Some(Err(Refusal::new(ErrorCode::WorkerLost, message)));
                }
                let gone = self.workers.members.borrow().gone(missing);
                (!gone.is_empty()).then(|| {
                    let message = format!("round {round} of key `{}` cannot end: {gone}", key.name);
                    Err(Refusal::new(ErrorCode::WorkerLost, message))
                })
            }
        }
    }

    /// Waits until the key has reached a version.
    pub async fn pull(&self, key: &Key, rank: Option<Rank>, version: u64) -> Answered<()> {
        let late = || match key.pull_state(rank, version) {
            PullState::Waiting { round, missing } if !missing.is_empty() => {
                let missing = self.workers.members.borrow().describe(missing);
                format!("round {round} of key `{}` did not end: waited for {missing}", key.name)
            }
            _ => self.update_waits(key).unwrap_or_else(|| {
                format!("key `{}` did not reach version {version}: its update is still running", key.name)
            }),
        };
        let mut answer = self.wait(key.progress(), || self.try_pull(key, rank, version), late).await;
        // Keys that wait for each other have the same time-out: their round fails at about this moment, and its error
        // names the missing keys.
        if matches!(&answer, Err(Refusal { code: ErrorCode::TimedOut, .. })) && self.update_waits(key).is_none() {
            let mut progress = key.progress();
            let settled = async { while self.is_updating(key, rank, version) && progress.changed().await.is_ok() {} };
            let _ = tokio::time::timeout(SETTLING, settled).await;
            answer = self.try_pull(key, rank, version).unwrap_or(answer);
        }
        match (&answer, key.pull_state(rank, version)) {
            // Nobody could push: the workers are not who was waited for.
            (Err(Refusal { code: ErrorCode::TimedOut, .. }), PullState::Waiting { round, .. })
                if self.deployments.read().of_round(key.placed_with(), round).is_none() =>
            {
                Err(no_optimizer_for(&format!("round {round} of key `{}` cannot run", key.name)))
            }
            _ => answer,
        }
    }

    fn is_updating(&self, key: &Key, rank: Option<Rank>, version: u64) -> bool {
        matches!(key.pull_state(rank, version), PullState::Waiting { missing, .. } if missing.is_empty())
    }

    /// What a key's update waits for, where its optimizer combines keys and some have not come to this round.
    fn update_waits(&self, key: &Key) -> Option<String> {
        let missing = self.rendezvous.waits_for(key.id)?;
        Some(format!(
            "round {} of key `{}` did not end: its optimizer combines keys in a round, and waited for {}; workers must push \
             all keys before they pull any",
            key.next_round().0,
            key.name,
            self.describe_keys(&missing)
        ))
    }

    /// Keys that a round waits for, and the workers whose gradients each of them lacks, for a message.
    pub fn describe_keys(&self, keys: &[TensorId]) -> String {
        let describe = |key: &Arc<Key>| match key.pull_state(None, u64::MAX) {
            PullState::Waiting { missing, .. } if !missing.is_empty() => {
                format!("`{}` (not pushed by {})", key.name, self.workers.members.borrow().describe(missing))
            }
            _ => format!("`{}`", key.name),
        };
        let all = self.model.all();
        let mut described: Vec<_> =
            all.iter().filter(|key| keys.contains(&key.id)).take(MAX_NAMED_KEYS).map(describe).collect();
        match keys.len().saturating_sub(MAX_NAMED_KEYS) {
            0 => {}
            more => described.push(format!("and {more} more")),
        }
        described.join(", ")
    }

    /// Waits until all workers are at the barrier of this number.
    pub async fn barrier(&self, worker: Worker, number: u64) -> Answered<()> {
        let changes = self.workers.barrier.subscribe();
        if self.workers.arrive(worker, number)? {
            return Ok(());
        }
        // What is read of the barrier is collected: the membership is locked before the barrier, never after.
        let state = || {
            let barrier = self.workers.barrier.borrow();
            (barrier.passed(), barrier.missing().collect::<Vec<_>>())
        };
        let look = || {
            let (passed, missing) = state();
            if passed >= number {
                return Some(Ok(()));
            }
            let gone = self.workers.members.borrow().gone(missing);
            (!gone.is_empty())
                .then(|| Err(Refusal::new(ErrorCode::WorkerLost, format!("barrier {number} cannot be passed: {gone}"))))
        };
        let late = || {
            let (_, missing) = state();
            let missing = self.workers.members.borrow().describe(missing);
            format!("barrier {number} was not passed: waited for {missing}")
        };
        self.wait(changes, look, late).await
    }

    /// Waits until the worker of rank 0 has made a key known.
    pub async fn known(&self, name: &str, tensor: &TensorType) -> Answered<Arc<Key>> {
        const FIRST: Rank = 0;
        let arrival = self.model.arrival(name);
        let look = || {
            if let Some(key) = self.model.find(name) {
                return Some(check_type(&key, tensor).map(|()| key));
            }
            let gone = self.workers.members.borrow().gone([FIRST]);
            (!gone.is_empty()).then(|| {
                let message = format!("key `{name}` cannot be made known: {gone}");
                Err(Refusal::new(ErrorCode::WorkerLost, message))
            })
        };
        let late = || {
            let first = self.workers.members.borrow().describe([FIRST]);
            format!("key `{name}` was not made known: waited for the first value from {first}")
        };
        self.wait(arrival.signal(), look, late).await
    }

    /// Looks, now and at every change, until there is something to answer, the time is over or the server stops.
    async fn wait<T, C>(
        &self,
        mut changes: watch::Receiver<C>,
        look: impl Fn() -> Option<Answered<T>>,
        late: impl Fn() -> String,
    ) -> Answered<T> {
        let timeout: Seconds = self.config.job.round_timeout_seconds;
        let mut departures = self.workers.departures.subscribe();
        let mut shutdown = self.shutdown.clone();
        let deadline = tokio::time::sleep(timeout.duration());
        tokio::pin!(deadline);
        let mut sender_gone = false;
        loop {
            changes.mark_unchanged();
            departures.mark_unchanged();
            if let Some(answer) = look() {
                return answer;
            }
            tokio::select! {
                changed = changes.changed(), if !sender_gone => sender_gone = changed.is_err(),
                _ = departures.changed() => {}
                () = &mut deadline => {
                    let message = format!("{} within {} s (job.round_timeout_seconds)", late(), timeout.duration().as_secs_f64());
                    return Err(Refusal::new(ErrorCode::TimedOut, message));
                }
                _ = shutdown.wait_for(|stops| *stops) => {
                    return Err(Refusal::new(ErrorCode::Busy, "the server is being shut down"));
                }
            }
        }
    }
}
