//! The worker processes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;

use super::server::Server;
use super::stepbox::Identity;
use crate::report::Event;

/// Training takes seconds; far longer on a machine that has other things to do, but not this long.
const TRAINING_TIMEOUT: Duration = Duration::from_secs(600);

/// All workers of the job, each watched by a task. Dropping them ends them.
pub(super) struct Workers(JoinSet<Result<Training>>);

struct Worker {
    name: String,
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What the workers report, once they agree.
pub(super) struct Training {
    pub(super) accuracy: f64,
    pub(super) weights_sha256: String,
    /// The slowest worker's.
    pub(super) seconds: f64,
}

impl Workers {
    /// Starts a worker for each identity. The first one's rounds are shown.
    pub(super) fn start(
        program: &Path,
        identities: &[Identity],
        server: &str,
        rounds: u64,
        progress: &ProgressBar,
    ) -> Result<Self> {
        let mut tasks = JoinSet::new();
        for (index, identity) in identities.iter().enumerate() {
            let worker = Worker::start(program, identity, server, rounds)?;
            let progress = if index == 0 { progress.clone() } else { ProgressBar::hidden() };
            tasks.spawn(worker.watch(progress));
        }
        Ok(Self(tasks))
    }

    /// Waits for all of them. The first that fails ends the others.
    pub(super) async fn finish(mut self, server: &Server) -> Result<Training> {
        let all = async {
            let mut trainings = Vec::new();
            while let Some(watched) = self.0.join_next().await {
                trainings.push(watched.context("a worker's watch broke off")??);
            }
            Ok(trainings)
        };
        let trainings: Vec<Training> = tokio::select! {
            trainings = tokio::time::timeout(TRAINING_TIMEOUT, all) => {
                trainings.with_context(|| format!("training did not end within {TRAINING_TIMEOUT:?}"))?
            }
            died = server.died() => Err(died),
        }?;
        let agree = trainings.windows(2).all(|pair| pair[0].weights_sha256 == pair[1].weights_sha256);
        ensure!(agree, "the workers ended with different weights");
        let slowest = trainings.into_iter().max_by(|left, right| left.seconds.total_cmp(&right.seconds));
        slowest.context("there are no workers")
    }
}

impl Worker {
    fn start(program: &Path, identity: &Identity, server: &str, rounds: u64) -> Result<Self> {
        let mut process = Command::new(program)
            .args(identity.connection(server))
            .args(["--rounds", &rounds.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = process.stdout.take().context("a worker has no standard output")?;
        Ok(Self { name: identity.name.clone(), process, lines: BufReader::new(stdout).lines() })
    }

    /// Reads what it reports until it ends.
    async fn watch(mut self, progress: ProgressBar) -> Result<Training> {
        let mut training = None;
        while let Some(line) = self.lines.next_line().await? {
            let event = serde_json::from_str(&line).with_context(|| format!("{} printed `{line}`", self.name))?;
            match event {
                Event::Registered { .. } => {}
                Event::Round { round, loss } => {
                    progress.set_position(round);
                    progress.set_message(format!("training, loss {loss:.4}"));
                }
                Event::Finished { accuracy, weights_sha256, seconds, .. } => {
                    training = Some(Training { accuracy, weights_sha256, seconds });
                }
            }
        }
        let status = self.process.wait().await?;
        match training {
            Some(training) if status.success() => Ok(training),
            _ => {
                let complaint = self.complaint().await;
                bail!("{} failed ({status}) {complaint}", self.name)
            }
        }
    }

    async fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.process.stderr {
            // What can be read is better than nothing.
            let _ = stderr.read_to_string(&mut text).await;
        }
        text.trim().to_owned()
    }
}
