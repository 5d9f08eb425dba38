//! What the server passes to an optimizer about a round and a tensor.

use std::ops::Range;

use crate::Random;

/// The values that are the same for all elements of a tensor in one round.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Context {
    /// The number of the round for this tensor; the first is 1.
    pub step: u64,
    /// The number of rounds that have updated this tensor since its slots were created, including this one. Use it for
    /// bias corrections.
    pub tensor_step: u64,
    /// The learning rate of this round.
    pub learning_rate: f32,
    /// The largest learning rate of the schedule; equal to `learning_rate` if it is constant.
    pub peak_learning_rate: f32,
    /// The number of workers whose gradients the reduced gradient includes.
    pub contributors: u32,
    /// The age in rounds of the oldest of these gradients; 0 in synchronous training.
    pub staleness: u32,
    /// The mean of the losses that the workers reported; `None` if they reported none.
    pub loss: Option<f32>,
    /// Key of the random stream; constant for a job.
    pub seed: u64,
}

impl Context {
    /// A context for round `step` with this learning rate, one contributor, and defaults for everything else.
    pub fn of_round(step: u64, learning_rate: f32) -> Self {
        Self {
            step,
            tensor_step: step,
            learning_rate,
            peak_learning_rate: learning_rate,
            contributors: 1,
            ..Self::default()
        }
    }

    /// The random numbers for the elements of a tensor in this round.
    pub fn random(&self, tensor: &Tensor) -> Random {
        Random::new(self, tensor)
    }
}

/// A tensor of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tensor {
    /// The key under which workers push and pull the tensor.
    pub name: String,
    /// Extents, outermost first, in row-major order. Empty for a scalar.
    pub shape: Vec<u64>,
    /// The group to which the operator's configuration assigns the tensor; empty for none.
    pub group: String,
    /// Labels, such as `bias` or `embedding`.
    pub tags: Vec<String>,
    /// A number that identifies this tensor, the same on every shard and server.
    pub identity: u64,
}

impl Tensor {
    /// A tensor with this name, shape and identity, without group and tags.
    pub fn new(name: &str, shape: &[u64], identity: u64) -> Self {
        Self { name: name.into(), shape: shape.into(), identity, ..Self::default() }
    }

    /// Number of elements: the product of the extents.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Extent of the first axis; 1 for fewer than two axes.
    pub fn rows(&self) -> u64 {
        if self.shape.len() < 2 { 1 } else { self.shape[0] }
    }

    /// Elements in a row: the product of all extents except the first; all elements for fewer than two axes.
    pub fn columns(&self) -> u64 {
        if self.shape.len() < 2 { self.elements() } else { self.shape[1..].iter().product() }
    }

    /// The rows that a run of elements overlaps.
    pub(crate) fn rows_of(&self, elements: Range<u64>) -> Range<u64> {
        let columns = self.columns();
        if columns == 0 || elements.is_empty() {
            return 0..0;
        }
        elements.start / columns..elements.end.div_ceil(columns)
    }
}
