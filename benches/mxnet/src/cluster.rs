//! A server with its workers, of either side, going through rounds together.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Process, peak_memory, processor_time, unless_ended};
use crate::work::Event;

/// Processes of one side. Dropping it ends them.
pub struct Cluster {
    server: Process,
    workers: Vec<Process>,
    /// Processes that only have to be there.
    others: Vec<Process>,
    weights: PathBuf,
}

/// What some rounds took.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Each round's wall time: from push to new weights, of the slowest worker.
    pub rounds: Vec<Duration>,
    /// Processor time of the server process in all of them.
    pub server: Duration,
}

impl Cluster {
    /// Of processes that have been started, once all workers are ready for the first round.
    ///
    /// # Errors
    /// One of the processes does not start.
    pub async fn of(server: Process, workers: Vec<Process>, others: Vec<Process>, weights: PathBuf) -> Result<Self> {
        let mut cluster = Self { server, workers, others, weights };
        cluster.await_ready().await?;
        Ok(cluster)
    }

    /// Goes through some rounds. All workers start each at the same time, with their gradients filled.
    ///
    /// # Errors
    /// A process ends or hangs.
    pub async fn rounds(&mut self, count: u64) -> Result<Block> {
        let before = processor_time(self.server.id()?)?;
        let mut rounds = Vec::new();
        for _ in 0..count {
            rounds.push(self.round().await?);
        }
        Ok(Block { rounds, server: processor_time(self.server.id()?)? - before })
    }

    /// The most memory that the server has had resident, in bytes.
    ///
    /// # Errors
    /// The server has ended.
    pub fn server_peak_memory(&self) -> Result<u64> {
        peak_memory(self.server.id()?)
    }

    /// Ends all processes. Returns the weights that the worker of rank 0 has written after its last round.
    ///
    /// # Errors
    /// A process cannot be ended, or the weights are not there.
    pub async fn finish(self) -> Result<Vec<f32>> {
        for process in self.workers.into_iter().chain([self.server]).chain(self.others) {
            process.kill().await?;
        }
        let bytes = std::fs::read(&self.weights).with_context(|| self.weights.display().to_string())?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    async fn round(&mut self) -> Result<Duration> {
        for worker in &mut self.workers {
            worker.tell("go").await?;
        }
        let workers = &mut self.workers;
        let slowest = unless_ended(&mut self.server, async {
            let mut slowest = 0;
            for worker in workers {
                match event(worker).await? {
                    Event::Done { nanoseconds } => slowest = slowest.max(nanoseconds),
                    other => bail!("a worker is {other:?} within a round"),
                }
            }
            Ok(Duration::from_nanos(slowest))
        });
        let slowest = slowest.await?;
        self.await_ready().await?;
        Ok(slowest)
    }

    async fn await_ready(&mut self) -> Result<()> {
        let workers = &mut self.workers;
        let ready = async {
            for worker in workers {
                match event(worker).await? {
                    Event::Ready | Event::Finished => {}
                    other @ Event::Done { .. } => bail!("a worker is {other:?} before the round"),
                }
            }
            Ok(())
        };
        unless_ended(&mut self.server, ready).await
    }
}

async fn event(worker: &mut Process) -> Result<Event> {
    let line = worker.line().await?;
    serde_json::from_str(&line).with_context(|| format!("a worker printed `{line}`"))
}
