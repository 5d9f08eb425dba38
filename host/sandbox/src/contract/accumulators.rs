//! From what slices contribute to what the next phase reads.

use std::sync::Arc;

use crate::contract::declarations::{Contributor, Scope};
use crate::contract::plan::Plan;
use crate::contract::statistics::{join, nothing};

/// What one slice contributed in one pass: for each accumulator of the plan one number for each of the slice's chunks,
/// or none where this pass did not contribute to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contributions {
    pub(crate) chunks: Vec<Vec<f64>>,
}

/// What a tensor's accumulators hold in a round. Starts empty, is fed by slices and read by phases.
#[derive(Debug, Clone)]
pub struct Accumulators {
    plan: Arc<Plan>,
    /// For each accumulator: one number, or one for each row or column.
    values: Vec<Vec<f64>>,
}

impl Accumulators {
    /// Before a round's first phase.
    pub fn new(plan: Arc<Plan>) -> Self {
        let start = |accumulator: &crate::contract::declarations::Accumulator| {
            let numbers = match accumulator.scope {
                Scope::Row => plan.geometry.rows as usize,
                Scope::Column => plan.geometry.columns as usize,
                Scope::Tensor | Scope::Group | Scope::Model => 1,
            };
            vec![nothing(accumulator.combination); numbers]
        };
        let values = plan.accumulators.iter().map(start).collect();
        Self { plan, values }
    }

    /// Combines what the tensor's slices contributed in a pass. The slices must come in their order in the tensor.
    pub fn add(&mut self, slices: impl IntoIterator<Item = Contributions>) {
        for slice in slices {
            for ((accumulator, value), chunks) in self.plan.accumulators.iter().zip(&mut self.values).zip(slice.chunks)
            {
                if let [value] = value.as_mut_slice() {
                    *value = chunks.iter().fold(*value, |so_far, chunk| join(accumulator.combination, so_far, *chunk));
                }
            }
        }
    }

    /// The accumulators that a group or the whole model shares and that this phase is the first to read: their positions
    /// in the plan, and what this tensor gives.
    pub fn shared(&self, phase: u32) -> impl Iterator<Item = (usize, f64)> {
        self.plan.accumulators.iter().enumerate().filter_map(move |(index, accumulator)| {
            let shared = matches!(accumulator.scope, Scope::Group | Scope::Model) && accumulator.read_from == phase;
            shared.then(|| (index, self.values[index][0]))
        })
    }

    /// Puts in place what all tensors together gave, for an accumulator of [`Self::shared`]: each tensor's value, in
    /// order of the tensors' identities.
    pub fn set_shared(&mut self, index: usize, tensors: impl IntoIterator<Item = f64>) {
        let combination = self.plan.accumulators[index].combination;
        let joined = tensors.into_iter().fold(nothing(combination), |so_far, value| join(combination, so_far, value));
        self.values[index] = vec![joined];
    }

    pub(crate) fn values(&self, index: usize) -> &[f64] {
        &self.values[index]
    }

    pub(crate) fn values_mut(&mut self, index: usize) -> &mut [f64] {
        &mut self.values[index]
    }

    /// Positions of the accumulators that the optimizer contributes to in this phase.
    pub(crate) fn contributed_in(plan: &Plan, phase: u32) -> impl Iterator<Item = usize> {
        let here = Contributor::Optimizer { phase };
        (0..plan.accumulators.len()).filter(move |index| plan.accumulators[*index].contributor == here)
    }
}
