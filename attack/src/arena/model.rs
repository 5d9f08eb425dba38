//! What is trained: three tensors, their first values, and everybody's gradients for every round.
//!
//! All of it follows from the numbers of worker, round and element, so that a run that nobody disturbs can be repeated.

use anyhow::{Context, Result};
use stepbox_client::Tensor;

/// A tensor of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its elements, in one axis.
    pub elements: usize,
}

/// Workers of the job. The last one is the attacker's.
pub const WORKERS: usize = 3;

/// The model. The first tensor is cut into several slices, one for each shard thread.
pub const KEYS: [Key; 3] = [
    Key { name: "layer", elements: 140_000 },
    Key { name: "bias", elements: 100 },
    Key { name: "bait", elements: 1000 },
];

/// What hostile guests wait for: one traps at parameters above a billion, one looks for the second value. No gradient ever
/// moves them.
const BAIT: [(usize, f32); 2] = [(700, 3e9), (300, 4242.5)];

impl Key {
    /// Its first values.
    ///
    /// # Errors
    /// None that can come up: the shape holds the values.
    pub fn first_values(self) -> Result<Tensor> {
        let mut values: Vec<f32> = (0..self.elements).map(|index| (index % 977) as f32 * 0.01 - 4.0).collect();
        if self.name == "bait" {
            BAIT.iter().for_each(|(place, value)| values[*place] = *value);
        }
        self.tensor(values)
    }

    /// A worker's gradient for a round.
    ///
    /// # Errors
    /// None that can come up: the shape holds the values.
    pub fn gradient(self, rank: usize, round: u64) -> Result<Tensor> {
        let offset = round.wrapping_mul(31).wrapping_add(rank as u64 * 271) % 1009;
        let value = |index: usize| ((index * 7 + offset as usize) % 1009) as f32 * 2e-3 - 1.0;
        let mut values: Vec<f32> = (0..self.elements).map(value).collect();
        if self.name == "bait" {
            BAIT.iter().for_each(|(place, _)| values[*place] = 0.0);
        }
        self.tensor(values)
    }

    /// Values in this tensor's shape.
    ///
    /// # Errors
    /// They are too many or too few.
    pub fn tensor(self, values: Vec<f32>) -> Result<Tensor> {
        Tensor::new([self.elements as u64], values).context("the model's shape")
    }
}

/// A tensor's bytes as they go over the wire.
pub fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.values().iter().flat_map(|value| value.to_le_bytes()).collect()
}
