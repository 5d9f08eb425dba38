//! A round of one pass over the slices of a key that a shard owns, what goes out after a round, and a round's end.

use std::ops::Range;
use std::sync::Arc;

use stepbox_reduce::{Format, Gradient, NotFinite, ReduceError, Reduction};
use stepbox_sandbox::{Exchange, GradientSource, InstancePool, SandboxError, StepContext, StepError};
use thiserror::Error;

use super::executor::{Bound, Shard};
use crate::names::{OptimizerId, TensorId};
use crate::tensor::{Dense, Weights, gradient};

/// What a round of a key is computed from, the same for all its slices.
pub(crate) struct Step {
    pub optimizer: OptimizerId,
    pub key: TensorId,
    pub context: StepContext,
    pub reduction: Reduction,
}

/// A slice's new weights, with the slice's position in the cut.
pub(crate) type NewChunk = (usize, Vec<u8>);

/// Buffers that are free, each with the position of the slice that it is for.
pub(crate) type Lent = Vec<(usize, Vec<u8>)>;

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
    /// Our fault: the gradients were checked when they came.
    #[error("the gradients could not be reduced: {0}")]
    Reduce(#[from] stepbox_reduce::ReduceError),
}

/// The gradients of a shard's slices, in their order.
pub(crate) struct SliceGradients {
    /// By rank.
    pub formats: Arc<[Format]>,
    /// For each slice: gradients by rank, and perhaps others, to be written to.
    pub buffers: Vec<Vec<Vec<u8>>>,
    /// The weights as they are.
    pub former: Arc<Weights>,
}

impl Shard {
    /// Runs a round of one pass on the key's slices here and returns their new weights.
    ///
    /// Where the shard is `alone` with the key, its success is the key's, and with the weights it returns the buffers that
    /// are free. Otherwise, and after a failure, [`Shard::settle`] must follow.
    pub fn exchange(
        &mut self,
        step: &Step,
        gradients: SliceGradients,
        alone: bool,
    ) -> Result<(Vec<NewChunk>, Lent), StepFailure> {
        let SliceGradients { formats, buffers, former } = gradients;
        let (pool, slices) = self.placement(step.optimizer, step.key);
        let mut chunks = Vec::with_capacity(slices.len());
        for (Bound { index, slice, id }, gradients) in slices.iter().zip(buffers) {
            let mut reduced = Ok(());
            let mut aggregate = |buffers: &[Vec<u8>], out: &mut [f32]| {
                let parts: Vec<_> =
                    formats.iter().zip(buffers).map(|(format, bytes)| Gradient::new(*format, bytes)).collect();
                match step.reduction.reduce_into(&parts, out) {
                    Ok(()) => Ok(()),
                    Err(ReduceError::NotFinite(NotFinite { index, value })) => {
                        Err(StepError::GradientNotFinite { index: index as u64, value })
                    }
                    Err(error) => {
                        reduced = Err(error);
                        Ok(())
                    }
                }
            };
            let (weights, bytes) = (Arc::clone(&former), slice.bytes());
            let exchange = Exchange {
                gradients,
                aggregate: &mut aggregate,
                former: Box::new(move |parameters| parameters.copy_from_slice(&weights.range(bytes.clone()))),
            };
            chunks.push((*index, pool.exchange(*id, &step.context, exchange)?));
            // If this is an error, the step ran on a gradient that was not there, and the caller takes it back.
            reduced?;
        }
        Ok((chunks, if alone { settle(pool, slices, true) } else { Lent::new() }))
    }

    /// Ends a round: keeps it where it succeeded on all shards, takes it back where it did not.
    /// Returns the buffers that slices were lent for it.
    pub fn settle(&mut self, optimizer: OptimizerId, key: TensorId, keep: bool) -> Lent {
        let (pool, slices) = self.placement(optimizer, key);
        settle(pool, slices, keep)
    }
}

fn settle(pool: &mut InstancePool, slices: &[Bound], keep: bool) -> Lent {
    let mut settle = |Bound { index, id, .. }: &Bound| {
        let lent = if keep { pool.commit(*id) } else { pool.roll_back(*id) };
        lent.into_iter().map(|buffer| (*index, buffer)).collect::<Lent>()
    };
    slices.iter().flat_map(&mut settle).collect()
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
    reduction: Reduction,
    gradients: &[Dense],
    run: impl FnOnce(&mut GradientSource<'_>) -> Result<T, StepError>,
) -> Result<T, StepFailure> {
    let start = bound.slice.start as usize;
    let mut reduced = Ok(());
    let mut gradient = |elements: Range<usize>, out: &mut [f32]| {
        let elements = start + elements.start..start + elements.end;
        match gradient::aggregate(reduction, gradients, elements, out) {
            // What is not finite is the sandbox's to see, which reads it next.
            Ok(()) | Err(ReduceError::NotFinite(_)) => {}
            Err(error) => reduced = Err(error),
        }
    };
    let outcome = run(&mut gradient)?;
    // If this is an error, the step ran on a gradient that was not there, and the caller takes it back.
    reduced?;
    Ok(outcome)
}
