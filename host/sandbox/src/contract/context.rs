//! What a step is told about its round.

use crate::contract::bindings::types;

/// What a step is told about its round: see the contract's `context`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepContext {
    /// The round of this tensor: 1 in its first.
    pub step: u64,
    /// Rounds in which this tensor was updated since its slots were made, this one included.
    pub tensor_step: u64,
    /// Learning rate of this round.
    pub learning_rate: f32,
    /// The largest learning rate of the schedule.
    pub peak_learning_rate: f32,
    /// How many workers' gradients the aggregate holds.
    pub contributors: u32,
    /// Rounds by which the oldest of them is late.
    pub staleness: u32,
    /// Mean of the workers' losses.
    pub loss: Option<f32>,
    /// Key of the random stream.
    pub seed: u64,
}

impl StepContext {
    pub(crate) fn raw(&self) -> types::Context {
        types::Context {
            step: self.step,
            tensor_step: self.tensor_step,
            learning_rate: self.learning_rate,
            peak_learning_rate: self.peak_learning_rate,
            contributors: self.contributors,
            staleness: self.staleness,
            loss: self.loss,
            seed: self.seed,
        }
    }
}
