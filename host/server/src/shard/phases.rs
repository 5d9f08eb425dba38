//! A round of several passes over the slices that a shard owns. Between two passes the key's update combines what all
//! shards have contributed.

use stepbox_sandbox::{Accumulators, Contributions, StepContext};

use super::executor::{Bound, Shard};
use super::step::{NewChunk, Step, StepFailure, new_chunks, with_gradient};
use crate::names::{OptimizerId, TensorId};
use crate::tensor::Dense;

/// What a slice contributed, with the slice's position in the key's cut.
pub(crate) type Contributed = (usize, Contributions);

impl Shard {
    /// The server's own statistics that `phase` is the first to read.
    pub fn statistics(
        &mut self,
        step: &Step,
        gradients: &[Dense],
        phase: u32,
    ) -> Result<Vec<Contributed>, StepFailure> {
        let (pool, slices) = self.placement(step.optimizer, step.key);
        slices
            .iter()
            .map(|bound| {
                let gathered = with_gradient(bound, step.reduction, gradients, |gradient| {
                    pool.statistics(bound.id, phase, gradient)
                })?;
                Ok((bound.index, gathered))
            })
            .collect()
    }

    /// One phase, slice after slice. Accumulators of rows and columns are taken up on the way.
    pub fn phase(
        &mut self,
        step: &Step,
        gradients: &[Dense],
        phase: u32,
        mut accumulators: Accumulators,
    ) -> Result<(Vec<Contributed>, Accumulators), StepFailure> {
        let (pool, slices) = self.placement(step.optimizer, step.key);
        let mut contributed = Vec::with_capacity(slices.len());
        for bound in slices {
            let contributions = with_gradient(bound, step.reduction, gradients, |gradient| {
                pool.phase(bound.id, phase, &step.context, &mut accumulators, gradient)
            })?;
            contributed.push((bound.index, contributions));
        }
        Ok((contributed, accumulators))
    }

    /// The new weights after the last phase, in `buffers` as far as they go.
    pub fn read_out(&mut self, step: &Step, buffers: Vec<Vec<u8>>) -> Result<Vec<NewChunk>, StepFailure> {
        let (pool, slices) = self.placement(step.optimizer, step.key);
        new_chunks(pool, slices, buffers)
    }

    /// The weights to evaluate the model with.
    pub fn evaluate(
        &mut self,
        optimizer: OptimizerId,
        key: TensorId,
        context: &StepContext,
    ) -> Result<Vec<NewChunk>, StepFailure> {
        let (pool, slices) = self.placement(optimizer, key);
        slices
            .iter()
            .map(|Bound { index, slice, id }| {
                let mut chunk = vec![0; slice.bytes().len()];
                pool.evaluate(*id, context, &mut chunk)?;
                Ok((*index, chunk))
            })
            .collect()
    }
}
