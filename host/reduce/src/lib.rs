//! Sums and means of gradients, as fast as memory delivers them, with the same bits on every machine.
//!
//! Gradients come as they came off the wire: raw little-endian `f32`, at any alignment. The result goes to `f32`s in
//! place, which for the server is the sandbox's memory: each gradient is read once, nothing is copied in between.
//!
//! ```
//! let first: Vec<u8> = [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
//! let second: Vec<u8> = [3.0_f32, 6.0].iter().flat_map(|value| value.to_le_bytes()).collect();
//! let mut mean = [0.0; 2];
//! stepbox_reduce::mean_into(&[&first, &second], &mut mean)?;
//! assert_eq!(mean, [2.0, 4.0]);
//! # Ok::<(), stepbox_reduce::ReduceError>(())
//! ```
//!
//! # Which bits
//!
//! Element `i` of the sum of the gradients `g0, g1, g2, …` is `((g0[i] + g1[i]) + g2[i]) + …`, each addition rounded to
//! `f32` as IEEE 754 says (to nearest, ties to even); the mean is that sum divided by the number of gradients, rounded
//! once more. So the result depends on the order of the gradients, and on nothing else: not on the instruction set, on
//! the alignment, or on how a tensor is cut into slices. Where the result is a NaN, its payload is not promised; finite
//! gradients never give a NaN.

#![deny(missing_docs)]
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod instruction_set;
mod kernel;

pub use instruction_set::InstructionSet;

use kernel::{Element, Finish};
use thiserror::Error;

/// Why gradients cannot be reduced. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReduceError {
    /// There is no gradient.
    #[error("there is no gradient to reduce; at least one is needed")]
    NoGradients,
    /// A gradient is not as long as the result.
    #[error("gradient {index} has {found} bytes, the result of {elements} elements needs {}", elements * size_of::<f32>())]
    Length {
        /// Which, in the order given.
        index: usize,
        /// Its length, in bytes.
        found: usize,
        /// Length of the result, in elements.
        elements: usize,
    },
}

/// An element that is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NotFinite {
    /// Its position, in elements.
    pub index: usize,
    /// What it is.
    pub value: f32,
}

/// Writes the mean of `gradients`, taken in the order given, to `out`. Each gradient is `out.len()` little-endian
/// `f32`s.
pub fn mean_into(gradients: &[&[u8]], out: &mut [f32]) -> Result<(), ReduceError> {
    reduce_into(InstructionSet::best(), gradients, Finish::mean(gradients.len()), out)
}

/// Writes the sum of `gradients`, taken in the order given, to `out`. Each gradient is `out.len()` little-endian
/// `f32`s.
pub fn sum_into(gradients: &[&[u8]], out: &mut [f32]) -> Result<(), ReduceError> {
    reduce_into(InstructionSet::best(), gradients, Finish::Sum, out)
}

/// Whether no element of `bytes`, little-endian `f32`s, is NaN or infinite. Up to three bytes behind the last whole
/// element are not looked at.
pub fn all_finite(bytes: &[u8]) -> bool {
    InstructionSet::best().all_finite(elements(bytes))
}

/// The first element of `bytes` that is NaN or infinite: what to name in an error once [`all_finite`] has said no.
pub fn first_not_finite(bytes: &[u8]) -> Option<NotFinite> {
    let values = elements(bytes).iter().map(|element| f32::from_le_bytes(*element));
    values.enumerate().find(|(_, value)| !value.is_finite()).map(|(index, value)| NotFinite { index, value })
}

fn reduce_into(
    instruction_set: InstructionSet,
    gradients: &[&[u8]],
    finish: Finish,
    out: &mut [f32],
) -> Result<(), ReduceError> {
    for (index, gradient) in gradients.iter().enumerate() {
        if gradient.len() != size_of_val(out) {
            return Err(ReduceError::Length { index, found: gradient.len(), elements: out.len() });
        }
    }
    let Some((first, others)) = gradients.split_first() else {
        return Err(ReduceError::NoGradients);
    };
    instruction_set.reduce(elements(first), others, finish, out);
    Ok(())
}

fn elements(bytes: &[u8]) -> &[Element] {
    bytes.as_chunks().0
}

#[cfg(test)]
mod tests;
