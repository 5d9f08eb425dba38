//! Shard threads: each owns some slices of every large tensor, and the sandbox instances in which they live.
//!
//! A sandbox instance belongs to one thread at a time, so nothing in it is ever locked or shared: the thread that prepares
//! an optimizer hands its instances over to the shards when it takes effect. Work arrives as closures by a bounded channel
//! and is done in the order of arrival. A thread that panics takes its work with it: whoever waits for an answer, or
//! brings more work, gets [`ShardLost`] and no one waits in vain. Nor for a thread that does not come back from a job: see
//! [`Shards::check`].

mod busy;
mod executor;
mod merged_rows;
mod phases;
mod rows;
mod step;

use std::fmt::Display;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use stepbox_wire::ErrorCode;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::names::Refusal;
use busy::Busy;

pub(crate) use executor::{Executor, NewSlice, Shard, new_slices};
pub(crate) use merged_rows::MergedRows;
pub(crate) use phases::Contributed;
pub(crate) use rows::FoundRows;
pub(crate) use step::{NewChunk, SliceGradients, Step, StepFailure};

/// Jobs that may wait for a shard. Each is one key's update, so this many small keys are taken in before whoever
/// brings more has to wait.
const QUEUED_JOBS: usize = 1024;

/// How often somebody who waits for a shard looks whether it is stuck.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

type Task = Box<dyn FnOnce(&mut Shard) + Send>;

/// The way to all shard threads.
#[derive(Debug)]
pub(crate) struct Shards {
    queues: Vec<mpsc::Sender<Task>>,
    /// What each of them is at.
    busy: Vec<Arc<Busy>>,
    /// How long one job may take.
    patience: Duration,
}

/// A shard thread that does not answer. The server's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ShardLost {
    /// It has panicked: only a restart helps.
    #[error("shard thread {0} has ended by a panic, and the weights it held are unreachable; restart the server")]
    Ended(usize),
    /// It does not come back from a job, and may yet.
    #[error(
        "shard thread {shard} has not answered for {seconds} s (limits.shard_answer_seconds), and what waits for it \
         waits in vain; if that does not end, restart the server"
    )]
    Stuck {
        /// Which.
        shard: usize,
        /// For how long it has been at one job.
        seconds: u64,
    },
}

impl From<ShardLost> for Refusal {
    fn from(lost: ShardLost) -> Self {
        let reason = match lost {
            ShardLost::Ended(_) => "shard-ended",
            ShardLost::Stuck { .. } => "shard-stuck",
        };
        Self::new(ErrorCode::Internal, lost.to_string()).because(reason)
    }
}

/// The threads themselves, to be waited for.
#[derive(Debug)]
pub(crate) struct ShardThreads(Vec<JoinHandle<()>>);

impl Shards {
    /// Starts the threads, of which none should be at one job for longer than `patience`. They end when this value is
    /// dropped.
    pub fn start(count: usize, patience: Duration) -> std::io::Result<(Self, ShardThreads)> {
        let mut queues = Vec::with_capacity(count);
        let busy: Vec<Arc<Busy>> = (0..count).map(|_| Arc::default()).collect();
        let mut threads = Vec::with_capacity(count);
        for (index, busy) in busy.iter().enumerate() {
            let busy = Arc::clone(busy);
            let (queue, mut jobs) = mpsc::channel::<Task>(QUEUED_JOBS);
            let work = move || {
                let mut shard = Shard::default();
                while let Some(job) = jobs.blocking_recv() {
                    busy.during(|| job(&mut shard));
                }
            };
            threads.push(thread::Builder::new().name(format!("shard-{index}")).spawn(work)?);
            queues.push(queue);
        }
        Ok((Self { queues, busy, patience }, ShardThreads(threads)))
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
        let job: Task = Box::new(move |shard| drop(sender.send(job(shard))));
        self.queues[shard].send(job).await.map_err(|_| ShardLost::Ended(shard))?;
        Ok(Pending { shard, receiver })
    }

    /// Has a shard do something and waits for it, unless a shard is stuck. What was queued by then is done all the same
    /// when that shard goes on.
    pub async fn call<T: Send + 'static>(
        &self,
        shard: usize,
        job: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Result<T, ShardLost> {
        self.unless_stuck(async { self.submit(shard, job).await?.wait().await }).await
    }

    /// As [`call`](Self::call), for a job that can fail. A failed job and a lost shard both become a message.
    pub async fn attempt<T: Send + 'static, E: Display + Send + 'static>(
        &self,
        shard: usize,
        job: impl FnOnce(&mut Shard) -> Result<T, E> + Send + 'static,
    ) -> Result<T, String> {
        self.call(shard, job).await.map_err(|lost| lost.to_string())?.map_err(|error| error.to_string())
    }

    /// Whether no shard is known to be stuck, or to have ended.
    pub fn check(&self) -> Result<(), ShardLost> {
        if let Some(ended) = self.queues.iter().position(mpsc::Sender::is_closed) {
            return Err(ShardLost::Ended(ended));
        }
        let stuck = self.busy.iter().enumerate().find_map(|(shard, busy)| {
            let time = busy.time().filter(|time| *time >= self.patience)?;
            Some(ShardLost::Stuck { shard, seconds: time.as_secs() })
        });
        stuck.map_or(Ok(()), Err)
    }

    /// Waits for what needs shards, unless one of them is stuck: then whoever waits is told at once.
    pub async fn unless_stuck<T, E: From<ShardLost>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::pin!(work);
        loop {
            self.check()?;
            if let Ok(done) = tokio::time::timeout(LOOK_AGAIN.min(self.patience), &mut work).await {
                return done;
            }
        }
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
        self.receiver.await.map_err(|_| ShardLost::Ended(self.shard))
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
        let (shards, threads) = Shards::start(2, Duration::MAX).expect("two threads");
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let held = shards.submit(0, move |_| wait.recv().expect("told to go on")).await.expect("it is there");
        let panics = shards.submit(0, |_| panic!("on purpose, to see that nobody waits for it")).await.expect("queued");
        let behind = shards.submit(0, |_| ()).await.expect("queued");
        go.send(()).expect("it waits");
        held.wait().await.expect("done before");
        assert_eq!(panics.wait().await, Err::<(), _>(ShardLost::Ended(0)));
        assert_eq!(behind.wait().await, Err(ShardLost::Ended(0)), "what was queued behind it is answered");
        assert_eq!(shards.call(0, |_| ()).await, Err(ShardLost::Ended(0)));
        assert_eq!(shards.submit(1, |_| 7).await.expect("queued").wait().await, Ok(7));
        drop(shards);
        threads.join();
    }

    #[tokio::test]
    async fn nobody_waits_for_a_shard_that_is_stuck_and_it_may_come_back() {
        let (shards, threads) = Shards::start(1, Duration::ZERO).expect("a thread");
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let job = move |_: &mut Shard| {
            begun.send(()).expect("the test waits");
            wait.recv().expect("told to go on");
        };
        let held = shards.submit(0, job).await.expect("queued");
        has_begun.await.expect("it begins");
        assert_eq!(shards.check(), Err(ShardLost::Stuck { shard: 0, seconds: 0 }));
        assert_eq!(shards.call(0, |_| ()).await, Err(ShardLost::Stuck { shard: 0, seconds: 0 }));
        go.send(()).expect("it waits");
        held.wait().await.expect("done");
        while shards.check().is_err() {
            tokio::task::yield_now().await;
        }
        drop(shards);
        threads.join();
    }
}
