//! A round under way on the shards that own the key's slices.

use std::sync::Arc;

use stepbox_reduce::Format;

use crate::job::Job;
use crate::model::{Key, Placement};
use crate::shard::{Pending, Shard, Step, StepFailure};
use crate::tensor::Slice;

/// A round of a key under way.
pub(super) struct Update<'a> {
    pub job: &'a Arc<Job>,
    pub key: &'a Arc<Key>,
    pub placement: &'a Placement,
    pub shards: Vec<usize>,
    pub step: Arc<Step>,
}

impl Update<'_> {
    /// Has each of the key's shards do its part, all at the same time, and waits for all. Returns what they did in order
    /// of the shards, or the first failure.
    pub async fn on_shards<T, W>(&self, mut part: impl FnMut(usize) -> W) -> Result<Vec<T>, String>
    where
        T: Send + 'static,
        W: FnOnce(&mut Shard, &Step) -> Result<T, StepFailure> + Send + 'static,
    {
        let mut running = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (step, part) = (Arc::clone(&self.step), part(*shard));
            running.push(self.job.shards.submit(*shard, move |shard| part(shard, &step)).await);
        }
        let mut outcomes = Vec::with_capacity(running.len());
        let mut failure = None;
        for pending in running {
            let outcome = match pending {
                Ok(pending) => pending.wait().await,
                Err(lost) => Err(lost),
            };
            match outcome {
                Ok(Ok(outcome)) => outcomes.push(outcome),
                Ok(Err(error)) => {
                    let status = &self.placement.optimizer.status;
                    failure.get_or_insert_with(|| format!("{} {}: {error}", status.name, status.version));
                }
                Err(lost) => {
                    failure.get_or_insert_with(|| lost.to_string());
                }
            }
        }
        failure.map_or(Ok(outcomes), Err)
    }

    /// Buffers for new weights, for each of the slices that a shard owns; none where the plan has a cut of its own.
    pub fn buffers(&self) -> impl FnMut(usize) -> Vec<Vec<u8>> {
        let slices = &self.placement.planned.slices;
        let lengths = |slices: &[Slice]| slices.iter().map(|slice| slice.elements).collect::<Vec<_>>();
        let mut buffers = match lengths(slices) == lengths(&self.key.slices) {
            true => self.key.gradient_buffers(Format::F32).detach(),
            false => vec![Vec::new(); slices.len()],
        };
        let owners: Vec<_> = slices.iter().map(|slice| slice.shard).collect();
        move |shard| {
            let owned = owners.iter().zip(&mut buffers).filter(|(owner, _)| **owner == shard);
            owned.map(|(_, buffer)| std::mem::take(buffer)).collect()
        }
    }

    /// Puts what shards return into the order of the cut.
    pub fn in_order<T: Default + Clone>(&self, parts: impl IntoIterator<Item = Vec<(usize, T)>>) -> Vec<T> {
        let mut ordered = vec![T::default(); self.placement.planned.slices.len()];
        parts.into_iter().flatten().for_each(|(index, part)| ordered[index] = part);
        ordered
    }

    /// Has all shards keep the round, or take it back.
    pub async fn settle(self, keep: bool, settlement: &mut Settlement) {
        let (optimizer, key) = (self.step.optimizer, self.key.id);
        for shard in &self.shards {
            let buffers = Arc::clone(&self.key.buffers);
            // A shard does its work in order, so this is done before anything else is done with the key. A shard that
            // is gone since has nothing left to settle.
            let settle = move |shard: &mut Shard| buffers.keep(shard.settle(optimizer, key, keep));
            settlement.running.extend(self.job.shards.submit(*shard, settle).await);
        }
    }

    /// Whether one shard has all of the key, so that its success is the key's.
    pub fn is_alone(&self) -> bool {
        self.shards.len() == 1
    }
}

/// What is left to do after a round: the shards keep it or take it back, and give buffers back. Nobody who waits for the
/// round waits for that.
#[derive(Default)]
pub(super) struct Settlement {
    running: Vec<Pending<()>>,
}

impl Settlement {
    pub async fn finish(self, key: &Key) {
        for pending in self.running {
            // A shard that is gone has nothing to give back.
            let _ = pending.wait().await;
        }
        key.keep_retired();
    }
}
