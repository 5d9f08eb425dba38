//! What one shard thread owns: slices, and the sandbox instances in which they live.

use std::collections::HashMap;
use std::sync::Arc;

use stepbox_sandbox::{AdmittedComponent, InstancePool, Preparation, SandboxError, SliceId};

use crate::names::{OptimizerId, TensorId};
use crate::optimizer::{Optimizer, Planned};
use crate::tensor::{Slice, Weights};

/// What one shard thread owns.
#[derive(Default)]
pub(crate) struct Shard {
    executors: HashMap<OptimizerId, Executor>,
}

/// Where slices live under one optimizer. It is filled on the thread that prepares the optimizer, and belongs to a shard
/// from when that [adopts](Shard::adopt) it.
pub(crate) struct Executor {
    pool: InstancePool,
    keys: HashMap<TensorId, Vec<Bound>>,
}

impl Executor {
    /// One without slices.
    pub fn new(component: &AdmittedComponent) -> Self {
        Self { pool: component.pool(), keys: HashMap::new() }
    }

    /// Makes room for a slice.
    pub fn bind(&mut self, new: &NewSlice, budget: &Preparation) -> Result<(), SandboxError> {
        let NewSlice { key, index, slice, planned } = new;
        let Planned { tensor, treatment, plan, .. } = &**planned;
        let id = self.pool.bind_within(tensor, plan, &treatment.settings, slice.start, slice.elements, budget)?;
        self.keys.entry(*key).or_default().push(Bound { index: *index, slice: slice.clone(), id });
        Ok(())
    }
}

/// A slice that lives in a pool.
pub(super) struct Bound {
    /// Position in the key's cut.
    pub index: usize,
    pub slice: Slice,
    pub id: SliceId,
}

/// A slice to be made room for.
#[derive(Clone)]
pub(crate) struct NewSlice {
    pub key: TensorId,
    pub index: usize,
    pub slice: Slice,
    pub planned: Arc<Planned>,
}

/// A key's slices as a shard wants to have them.
pub(crate) fn new_slices(key: TensorId, planned: &Arc<Planned>) -> impl Iterator<Item = NewSlice> {
    planned.slices.iter().enumerate().map(move |(index, slice)| NewSlice {
        key,
        index,
        slice: slice.clone(),
        planned: Arc::clone(planned),
    })
}

impl Shard {
    /// Takes over the instances of an optimizer that was prepared elsewhere.
    pub fn adopt(&mut self, optimizer: OptimizerId, executor: Executor) {
        self.executors.insert(optimizer, executor);
    }

    /// Makes room for a slice of a new key in the optimizer's instances here.
    ///
    /// After an error the caller [forgets](Self::forget) the key.
    pub fn bind(&mut self, optimizer: &Optimizer, new: &NewSlice, budget: &Preparation) -> Result<(), SandboxError> {
        self.executors.entry(optimizer.id).or_insert_with(|| Executor::new(&optimizer.component)).bind(new, budget)
    }

    /// Gives a key's slices their first weights, and its state its first values.
    pub fn load(&mut self, optimizer: OptimizerId, key: TensorId, weights: &Weights) -> Result<(), SandboxError> {
        let (pool, slices) = self.placement(optimizer, key);
        slices.iter().try_for_each(|bound| pool.load(bound.id, &weights.range(bound.slice.bytes())))
    }

    /// Copies a key's weights, unless they are given, and its state where that is kept, from an older optimizer's
    /// instances, which stay as they are.
    pub fn take_over(
        &mut self,
        optimizer: OptimizerId,
        from: OptimizerId,
        key: TensorId,
        keep_slots: bool,
        weights: Option<&Weights>,
    ) -> Result<(), SandboxError> {
        let [Some(executor), Some(old)] = self.executors.get_disjoint_mut([&optimizer, &from]) else {
            unreachable!("both optimizers have been prepared for this key on this shard");
        };
        take_back_what_is_open(&mut old.pool, &old.keys[&key]);
        for (new, old_slice) in executor.keys[&key].iter().zip(&old.keys[&key]) {
            debug_assert_eq!(new.slice, old_slice.slice);
            executor.pool.take_over(new.id, &old.pool, old_slice.id, keep_slots)?;
            if let Some(weights) = weights {
                executor.pool.write_parameters(new.id, &weights.range(new.slice.bytes()))?;
            }
        }
        Ok(())
    }

    /// Makes sure that all of a key's weights and state here is what its own steps have left.
    pub fn verify(&mut self, optimizer: OptimizerId, key: TensorId) -> Result<(), SandboxError> {
        let (pool, slices) = self.placement_at_rest(optimizer, key);
        slices.iter().try_for_each(|bound| pool.verify(bound.id))
    }

    /// Forgets a key's slices in the instances of all optimizers older than this one, and the instances with the last
    /// key in them.
    pub fn release_older(&mut self, than: OptimizerId, key: TensorId) {
        self.executors.retain(|optimizer, executor| {
            *optimizer >= than || {
                executor.keys.remove(&key);
                !executor.keys.is_empty()
            }
        });
    }

    /// Takes a key whose creation failed out of all instances, and gives its room back.
    pub fn forget(&mut self, key: TensorId) {
        for executor in self.executors.values_mut() {
            for bound in executor.keys.remove(&key).unwrap_or_default() {
                executor.pool.release(bound.id);
            }
        }
    }

    /// Forgets an optimizer with everything bound for it.
    pub fn discard(&mut self, optimizer: OptimizerId) {
        self.executors.remove(&optimizer);
    }

    /// The pool and the slices of a key, for who has the key's turn and no round under way: of a round whose task has died
    /// nothing is left.
    pub(super) fn placement_at_rest(&mut self, optimizer: OptimizerId, key: TensorId) -> (&mut InstancePool, &[Bound]) {
        let (pool, slices) = self.placement(optimizer, key);
        take_back_what_is_open(pool, slices);
        (pool, slices)
    }

    /// The pool and the slices of a key.
    pub(super) fn placement(&mut self, optimizer: OptimizerId, key: TensorId) -> (&mut InstancePool, &[Bound]) {
        let Some(Executor { pool, keys }) = self.executors.get_mut(&optimizer) else {
            unreachable!("the optimizer has been prepared on this shard");
        };
        (pool, &keys[&key])
    }
}

/// Takes back rounds that were neither kept nor taken back.
fn take_back_what_is_open(pool: &mut InstancePool, slices: &[Bound]) {
    for bound in slices {
        pool.roll_back(bound.id);
    }
}
