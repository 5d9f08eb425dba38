//! A round of one pass over the slices of a key that a shard owns, what goes out after a round, and a round's end.

use std::ops::Range;

use stepbox_reduce::{ReduceError, Reduction};
use stepbox_sandbox::{GradientSource, InstancePool, SandboxError, StepContext, StepError};
use thiserror::Error;

use super::KeyId;
use super::residents::{Bound, Shard};
use crate::gradient::Whole;
use crate::optimizer::OptimizerId;
use crate::sparse::MergedRows;

/// What a round of a key is computed from, the same for all its slices.
pub(crate) struct Step {
    pub optimizer: OptimizerId,
    pub key: KeyId,
    pub context: StepContext,
    pub gradients: Gradients,
    pub reduction: Reduction,
}

/// The workers' gradients, by rank.
pub(crate) enum Gradients {
    /// Whole tensors.
    Whole(Vec<Whole>),
    /// The rows that any worker has a gradient for.
    Rows(MergedRows),
}

/// A slice's new weights, with the slice's position in the cut.
pub(crate) type NewChunk = (usize, Vec<u8>);

/// Why a key's slices on a shard could not step. They are as they were before, or will be once the round is settled.
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
    /// Finite gradients have a sum that is not; anything else is our fault, as they were checked when they came.
    #[error("the gradients could not be reduced: {0}")]
    Reduce(#[from] ReduceError),
}

impl Shard {
    /// Runs a round of one pass on the key's slices here and returns their new weights, in `buffers` as far as they go.
    ///
    /// Unless the shard is `alone` with the key, so that its success is the key's, [`Shard::settle`] must follow.
    pub fn step(&mut self, step: &Step, buffers: Vec<Vec<u8>>, alone: bool) -> Result<Vec<NewChunk>, StepFailure> {
        let (pool, slices) = self.home(step.optimizer, step.key);
        let run = |pool: &mut InstancePool| {
            for bound in slices {
                with_gradient(bound, step, |gradient| pool.step(bound.id, &step.context, gradient))?;
            }
            new_chunks(pool, slices, buffers)
        };
        let outcome = run(pool);
        match outcome {
            Ok(_) if !alone => {}
            Ok(_) => slices.iter().for_each(|slice| pool.commit(slice.id)),
            // Those that have not stepped have nothing to take back.
            Err(_) => slices.iter().for_each(|slice| pool.roll_back(slice.id)),
        }
        outcome
    }

    /// Ends a round: keeps it where it succeeded on all shards, takes it back where it did not.
    pub fn settle(&mut self, optimizer: OptimizerId, key: KeyId, keep: bool) {
        let (pool, slices) = self.home(optimizer, key);
        for Bound { id, .. } in slices {
            if keep { pool.commit(*id) } else { pool.roll_back(*id) }
        }
    }
}

/// The weights of slices, in `buffers` as far as they go.
pub(super) fn new_chunks(
    pool: &InstancePool,
    slices: &[Bound],
    buffers: Vec<Vec<u8>>,
) -> Result<Vec<NewChunk>, StepFailure> {
    let mut buffers = buffers.into_iter();
    let read = |Bound { index, slice, id }: &Bound| {
        let mut buffer = buffers.next().unwrap_or_default();
        buffer.resize(slice.bytes().len(), 0);
        pool.read_parameters(*id, &mut buffer)?;
        // The sandbox has looked at each block right after it was written; this is what goes out.
        match stepbox_reduce::first_not_finite(&buffer) {
            None => Ok((*index, buffer)),
            Some(found) => Err(StepFailure::NotFinite { index: found.index, value: found.value }),
        }
    };
    slices.iter().map(read).collect()
}

/// Does something with the aggregated gradient of a slice.
pub(super) fn with_gradient<T>(
    bound: &Bound,
    step: &Step,
    run: impl FnOnce(&mut GradientSource<'_>) -> Result<T, StepError>,
) -> Result<T, StepFailure> {
    let Gradients::Whole(gradients) = &step.gradients else {
        unreachable!("rows are made whole for optimizers that do not visit rows")
    };
    // The tensor is in memory, so this fits.
    let first = bound.slice.start as usize;
    let mut parts = Vec::with_capacity(gradients.len());
    let mut reduced = Ok(());
    let mut gradient = |elements: Range<usize>, out: &mut [f32]| {
        parts.clear();
        parts.extend(gradients.iter().map(|gradient| gradient.part(first + elements.start..first + elements.end)));
        if let Err(error) = step.reduction.reduce_into(&parts, out) {
            reduced = Err(error);
        }
    };
    let outcome = run(&mut gradient)?;
    // If this is an error, the step ran on a gradient that was not there, and the caller takes it back.
    reduced?;
    Ok(outcome)
}
