//! Shard threads: each owns some slices of every large tensor, and the sandbox instances in which they live.
//!
//! A sandbox instance belongs to one thread for its whole life, so nothing in it is ever locked or shared. Work arrives
//! as closures by a bounded channel and is done in the order of arrival. A thread that panics takes its work with it:
//! whoever waits for an answer, or brings more work, gets [`ShardLost`] and no one waits in vain.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use stepbox_sandbox::{InstancePool, Plan, SandboxError, SliceId, StepContext, StepError, TensorDescription};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::config::Aggregation;
use crate::cut::Slice;
use crate::optimizer::{Optimizer, OptimizerId};
use crate::weights::Weights;

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

/// What one shard thread owns.
#[derive(Default)]
pub(crate) struct Shard {
    homes: HashMap<OptimizerId, Home>,
}

/// Where slices live under one optimizer.
struct Home {
    pool: InstancePool,
    keys: HashMap<KeyId, Vec<Bound>>,
}

/// A slice that lives in a pool.
struct Bound {
    /// Position in the key's cut.
    index: usize,
    slice: Slice,
    id: SliceId,
}

/// A slice to be made room for.
#[derive(Clone)]
pub(crate) struct NewSlice {
    pub key: KeyId,
    pub index: usize,
    pub slice: Slice,
    pub tensor: Arc<TensorDescription>,
    pub plan: Arc<Plan>,
}

/// What a round of a key is computed from, the same for all its slices.
pub(crate) struct Step {
    pub optimizer: OptimizerId,
    pub key: KeyId,
    pub context: StepContext,
    /// Whole tensors, by rank.
    pub gradients: Vec<Vec<u8>>,
    pub aggregation: Aggregation,
    /// Whether this shard holds all of the key, so that its success is the key's.
    pub alone: bool,
}

/// A slice's new weights, with the slice's position in the key's cut.
pub(crate) type NewChunk = (usize, Vec<u8>);

/// Why a key's slices on a shard could not step. They are as they were before.
#[derive(Debug, Error)]
pub(crate) enum StepFailure {
    /// The optimizer failed.
    #[error(transparent)]
    Optimizer(#[from] StepError),
    /// The new weights could not be read.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The optimizer wrote outside the block it was given.
    #[error("the optimizer made parameter {index} of a slice {value} while it was given another block")]
    NotFinite {
        /// Index within the slice.
        index: usize,
        /// The value.
        value: f32,
    },
    /// Our fault: the gradients were checked when they came.
    #[error("the gradients could not be reduced: {0}")]
    Reduce(#[from] stepbox_reduce::ReduceError),
}

impl Shard {
    /// Makes room for slices in this optimizer's own instances.
    ///
    /// After an error the caller [discards](Self::discard) the optimizer or [forgets](Self::forget) the key.
    pub fn prepare(&mut self, optimizer: &Optimizer, slices: &[NewSlice]) -> Result<(), SandboxError> {
        let Home { pool, keys } = self
            .homes
            .entry(optimizer.id)
            .or_insert_with(|| Home { pool: optimizer.component.pool(&optimizer.settings), keys: HashMap::new() });
        for NewSlice { key, index, slice, tensor, plan } in slices {
            let id = pool.bind(tensor, plan, slice.start, slice.elements)?;
            keys.entry(*key).or_default().push(Bound { index: *index, slice: slice.clone(), id });
        }
        Ok(())
    }

    /// Gives a key's slices their first weights, and its state its first values.
    pub fn load(&mut self, optimizer: OptimizerId, key: KeyId, weights: &Weights) -> Result<(), SandboxError> {
        let (pool, slices) = self.home(optimizer, key);
        slices.iter().try_for_each(|bound| pool.load(bound.id, weights.chunk(bound.index)))
    }

    /// Copies a key's weights, and its state where that is kept, from an older optimizer's instances, which stay as they
    /// are.
    pub fn take_over(
        &mut self,
        optimizer: OptimizerId,
        from: OptimizerId,
        key: KeyId,
        keep_slots: bool,
    ) -> Result<(), SandboxError> {
        let [Some(home), Some(old)] = self.homes.get_disjoint_mut([&optimizer, &from]) else {
            unreachable!("both optimizers have been prepared for this key on this shard");
        };
        for (new, old_slice) in home.keys[&key].iter().zip(&old.keys[&key]) {
            debug_assert_eq!(new.slice, old_slice.slice);
            home.pool.take_over(new.id, &old.pool, old_slice.id, keep_slots)?;
        }
        Ok(())
    }

    /// Forgets a key's slices in the instances of all optimizers older than this one, and the instances with the last
    /// key in them.
    pub fn release_older(&mut self, than: OptimizerId, key: KeyId) {
        self.homes.retain(|optimizer, home| {
            *optimizer >= than || {
                home.keys.remove(&key);
                !home.keys.is_empty()
            }
        });
    }

    /// Takes a key whose creation failed out of all instances, and gives its room back.
    pub fn forget(&mut self, key: KeyId) {
        for home in self.homes.values_mut() {
            for bound in home.keys.remove(&key).unwrap_or_default() {
                home.pool.release(bound.id);
            }
        }
    }

    /// Forgets an optimizer with everything bound for it.
    pub fn discard(&mut self, optimizer: OptimizerId) {
        self.homes.remove(&optimizer);
    }

    /// Runs a round on the key's slices here and returns their new weights, in `buffers` as far as they go.
    ///
    /// Unless the shard is alone with the key, [`Shard::settle`] must follow a success.
    pub fn step(&mut self, step: &Step, buffers: Vec<Vec<u8>>) -> Result<Vec<NewChunk>, StepFailure> {
        let (pool, slices) = self.home(step.optimizer, step.key);
        let mut buffers = buffers.into_iter();
        let mut run = || {
            slices.iter().try_for_each(|slice| step_slice(pool, slice, step))?;
            slices
                .iter()
                .map(|Bound { index, slice, id }| {
                    let mut buffer = buffers.next().unwrap_or_default();
                    buffer.resize(slice.bytes().len(), 0);
                    pool.read_parameters(*id, &mut buffer)?;
                    // The sandbox has looked at each block right after it was written; this is what goes out.
                    match stepbox_reduce::first_not_finite(&buffer) {
                        None => Ok((*index, buffer)),
                        Some(found) => Err(StepFailure::NotFinite { index: found.index, value: found.value }),
                    }
                })
                .collect()
        };
        let outcome: Result<Vec<NewChunk>, StepFailure> = run();
        match outcome {
            Ok(_) if !step.alone => {}
            Ok(_) => slices.iter().for_each(|slice| pool.commit(slice.id)),
            // Those that have not stepped have nothing to take back.
            Err(_) => slices.iter().for_each(|slice| pool.roll_back(slice.id)),
        }
        outcome
    }

    /// Ends a step that succeeded here: keeps it where it succeeded on all shards, takes it back where it did not.
    pub fn settle(&mut self, optimizer: OptimizerId, key: KeyId, keep: bool) {
        let (pool, slices) = self.home(optimizer, key);
        for Bound { id, .. } in slices {
            if keep { pool.commit(*id) } else { pool.roll_back(*id) }
        }
    }

    fn home(&mut self, optimizer: OptimizerId, key: KeyId) -> (&mut InstancePool, &[Bound]) {
        let Some(Home { pool, keys }) = self.homes.get_mut(&optimizer) else {
            unreachable!("the optimizer has been prepared on this shard");
        };
        (pool, &keys[&key])
    }
}

fn step_slice(pool: &mut InstancePool, bound: &Bound, step: &Step) -> Result<(), StepFailure> {
    let tensor_bytes = bound.slice.bytes();
    let mut parts = Vec::with_capacity(step.gradients.len());
    let mut reduced = Ok(());
    let mut gradient = |elements: Range<usize>, out: &mut [f32]| {
        let bytes = tensor_bytes.start + elements.start * 4..tensor_bytes.start + elements.end * 4;
        parts.clear();
        parts.extend(step.gradients.iter().map(|gradient| &gradient[bytes.clone()]));
        let result = match step.aggregation {
            Aggregation::Mean => stepbox_reduce::mean_into(&parts, out),
            Aggregation::Sum => stepbox_reduce::sum_into(&parts, out),
        };
        if let Err(error) = result {
            reduced = Err(error);
        }
    };
    pool.step(bound.id, &step.context, &mut gradient)?;
    // If this is an error, the step ran on a gradient that was not there, and the caller takes it back.
    Ok(reduced?)
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
