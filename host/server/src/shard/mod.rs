//! Shard threads: each owns some slices of every large tensor, and the sandbox instances in which they live.
//!
//! A sandbox instance belongs to one thread for its whole life, so nothing in it is ever locked or shared. Work arrives
//! as closures by a bounded channel and is done in the order of arrival. A thread that panics takes its work with it:
//! whoever waits for an answer, or brings more work, gets [`ShardLost`] and no one waits in vain.

mod phases;
mod residents;
mod rows;
mod step;

use std::thread::{self, JoinHandle};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

pub(crate) use phases::Contributed;
pub(crate) use residents::{NewSlice, Shard};
pub(crate) use rows::FoundRows;
pub(crate) use step::{Gradients, Lent, NewChunk, SliceGradients, Step, StepFailure};

/// Jobs that may wait for a shard. Each is one key's update, so this many small keys are taken in before whoever
/// brings more has to wait.
const QUEUED_JOBS: usize = 1024;

/// Names a key for as long as the server runs.
pub(crate) type KeyId = u64;

type Job = Box<dyn FnOnce(&mut Shard) + Send>;

/// The way to all shard threads.
#[derive(Debug)]
pub(crate) struct Shards {
    queues: Vec<mpsc::Sender<Job>>,
}

/// A shard thread has panicked: our fault, and only a restart helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("shard thread {0} has ended by a panic, and the weights it held are unreachable; restart the server")]
pub(crate) struct ShardLost(pub usize);

/// The threads themselves, to be waited for.
#[derive(Debug)]
pub(crate) struct ShardThreads(Vec<JoinHandle<()>>);

impl Shards {
    /// Starts the threads. They end when this value is dropped.
    pub fn start(count: usize) -> std::io::Result<(Self, ShardThreads)> {
        let mut queues = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let (queue, mut jobs) = mpsc::channel::<Job>(QUEUED_JOBS);
            let work = move || {
                let mut shard = Shard::default();
                while let Some(job) = jobs.blocking_recv() {
                    job(&mut shard);
                }
            };
            threads.push(thread::Builder::new().name(format!("shard-{index}")).spawn(work)?);
            queues.push(queue);
        }
        Ok((Self { queues }, ShardThreads(threads)))
    }

    pub fn count(&self) -> usize {
        self.queues.len()
    }

    /// Has a shard do something, and returns where its result will arrive. Jobs of one shard are done in order.
    pub async fn submit<T: Send + 'static>(
        &self,
        shard: usize,
        job: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Result<Pending<T>, ShardLost> {
        let (sender, receiver) = oneshot::channel();
        // Nobody may be waiting any more; the job is done all the same.
        let job: Job = Box::new(move |shard| drop(sender.send(job(shard))));
        self.queues[shard].send(job).await.map_err(|_| ShardLost(shard))?;
        Ok(Pending { shard, receiver })
    }

    /// Has a shard do something and waits for it.
    pub async fn call<T: Send + 'static>(
        &self,
        shard: usize,
        job: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Result<T, ShardLost> {
        self.submit(shard, job).await?.wait().await
    }
}

/// A result on its way.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    shard: usize,
    receiver: oneshot::Receiver<T>,
}

impl<T> Pending<T> {
    pub async fn wait(self) -> Result<T, ShardLost> {
        self.receiver.await.map_err(|_| ShardLost(self.shard))
    }
}

impl ShardThreads {
    /// Waits for all threads to end.
    pub fn join(self) {
        for (index, thread) in self.0.into_iter().enumerate() {
            if thread.join().is_err() {
                tracing::error!(shard = index, "a shard thread had panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shard_that_panics_leaves_nobody_waiting_and_the_others_alone() {
        let (shards, threads) = Shards::start(2).expect("two threads");
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let held = shards.submit(0, move |_| wait.recv().expect("told to go on")).await.expect("it is there");
        let panics = shards.submit(0, |_| panic!("on purpose, to see that nobody waits for it")).await.expect("queued");
        let behind = shards.submit(0, |_| ()).await.expect("queued");
        go.send(()).expect("it waits");
        held.wait().await.expect("done before");
        assert_eq!(panics.wait().await, Err::<(), _>(ShardLost(0)));
        assert_eq!(behind.wait().await, Err(ShardLost(0)), "what was queued behind it is answered");
        assert_eq!(shards.call(0, |_| ()).await, Err(ShardLost(0)));
        assert_eq!(shards.call(1, |_| 7).await, Ok(7));
        drop(shards);
        threads.join();
    }
}
