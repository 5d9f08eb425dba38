//! What the server tells an optimizer about a round and a tensor.

use std::ops::Range;

use crate::Random;

/// What is the same for all elements of a tensor in one round.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Context {
    /// The round of this tensor: 1 in its first.
    pub step: u64,
    /// Rounds in which this tensor was updated since its slots were made, this one included: what bias corrections
    /// count with.
    pub tensor_step: u64,
    /// The learning rate of this round.
    pub learning_rate: f32,
    /// The largest learning rate of the schedule; equal to `learning_rate` where it is constant.
    pub peak_learning_rate: f32,
    /// How many workers' gradients the aggregate holds.
    pub contributors: u32,
    /// How many rounds old the oldest of them is; 0 in synchronous training.
    pub staleness: u32,
    /// Mean of the losses the workers reported, where they did.
    pub loss: Option<f32>,
    /// Key of the random stream, constant for a job.
    pub seed: u64,
}

impl Context {
    /// Round `step` with this learning rate, one contributor, and nothing else of note.
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

    /// Random numbers for the elements of a tensor in this round.
    pub fn random(&self, tensor: &Tensor) -> Random {
        Random::new(self, tensor)
    }
}

/// A tensor of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tensor {
    /// The key under which workers push and pull it.
    pub name: String,
    /// Extents, outermost first; row-major. Empty for a scalar.
    pub shape: Vec<u64>,
    /// The group the operator put it in, empty for none.
    pub group: String,
    /// Free labels.
    pub tags: Vec<String>,
    /// A number for this tensor that is the same on every shard and server.
    pub identity: u64,
}

impl Tensor {
    /// A tensor of this name, shape and identity.
    pub fn new(name: &str, shape: &[u64], identity: u64) -> Self {
        Self { name: name.into(), shape: shape.into(), identity, ..Self::default() }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Extent of the first axis; 1 with fewer than two axes.
    pub fn rows(&self) -> u64 {
        if self.shape.len() < 2 { 1 } else { self.shape[0] }
    }

    /// Elements of a row: the product of all axes but the first; all elements with fewer than two axes.
    pub fn columns(&self) -> u64 {
        if self.shape.len() < 2 { self.elements() } else { self.shape[1..].iter().product() }
    }

    /// The rows that a run of elements touches.
    pub(crate) fn rows_of(&self, elements: Range<u64>) -> Range<u64> {
        let columns = self.columns();
        if columns == 0 || elements.is_empty() {
            return 0..0;
        }
        elements.start / columns..elements.end.div_ceil(columns)
    }
}
