//! Sums and means of gradients, as fast as memory delivers them, with the same bits on every machine.
//!
//! Gradients come as they came off the wire: raw little-endian `f32`, bfloat16 or binary16, at any alignment, in any mix.
//! The result goes to `f32`s in place, which for the server is the sandbox's memory: each gradient is read once, nothing
//! is copied in between, and whether the result is finite is known at the end without another look.
//!
//! ```
//! use stepbox_reduce::{Gradient, Reduction};
//!
//! let first: Vec<u8> = [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
//! let second = [0x40, 0x40, 0xc0, 0x40]; // 3 and 6 as bfloat16
//! let mut mean = [0.0; 2];
//! Reduction::mean().reduce_into(&[Gradient::f32(&first), Gradient::bf16(&second)], &mut mean)?;
//! assert_eq!(mean, [2.0, 4.0]);
//! # Ok::<(), stepbox_reduce::ReduceError>(())
//! ```
//!
//! Clipping by a norm takes it of the result, of all tensors that it is to cover, and then a factor:
//!
//! ```
//! use stepbox_reduce::{Gradient, Reduction, SquareSums, clip_factor};
//!
//! let gradient: Vec<u8> = [30.0_f32, 40.0].iter().flat_map(|value| value.to_le_bytes()).collect();
//! let (mut squares, mut clipped) = (SquareSums::new(), [0.0; 2]);
//! Reduction::mean().reduce_and_square_into(&[Gradient::f32(&gradient)], &mut clipped, &mut squares)?;
//! assert_eq!(squares.norm(), 50.0);
//! let factor = clip_factor(squares.norm(), 25.0);
//! Reduction::mean().clipped(factor).reduce_into(&[Gradient::f32(&gradient)], &mut clipped)?;
//! assert_eq!(clipped, [15.0, 20.0]);
//! # Ok::<(), stepbox_reduce::ReduceError>(())
//! ```
//!
//! # Which bits
//!
//! Element `i` of the sum of the gradients `g0, g1, g2, …` is `((g0[i] + g1[i]) + g2[i]) + …`, each element first widened
//! to `f32`, which is exact, and each addition rounded to `f32` as IEEE 754 says (to nearest, ties to even); the mean is
//! that sum divided by the number of gradients, rounded once more, and so is each product with a factor. Where an element computed so is not finite, it is
//! computed in `f64` instead, in the same order, and rounded to `f32` once, at the end: a sum that overflows makes no mean
//! infinite that fits. So the result depends on the order of the gradients, and on nothing else: not on the instruction set, on the alignment, or on how a
//! tensor is cut into slices. Where the result is a NaN, its payload is not promised; finite gradients never give a NaN.

#![deny(missing_docs)]
#![deny(unsafe_code)]

mod copy;
mod format;
#[allow(unsafe_code)]
mod instruction_set;
mod kernel;
mod norm;
mod reduction;

pub use copy::{CopyError, copy_finite, copy_finite_values};
pub use format::{Format, Gradient, NotFinite};
pub use instruction_set::InstructionSet;
pub use norm::{NORM_CHUNK_ELEMENTS, SquareSums, clip_factor};
pub use reduction::{Aggregation, ReduceError, Reduction};

/// [`Reduction::mean`] of gradients that are all little-endian `f32`s.
pub fn mean_into(gradients: &[&[u8]], out: &mut [f32]) -> Result<(), ReduceError> {
    let gradients: Vec<_> = gradients.iter().map(|bytes| Gradient::f32(bytes)).collect();
    Reduction::mean().reduce_into(&gradients, out)
}

/// [`Reduction::sum`] of gradients that are all little-endian `f32`s.
pub fn sum_into(gradients: &[&[u8]], out: &mut [f32]) -> Result<(), ReduceError> {
    let gradients: Vec<_> = gradients.iter().map(|bytes| Gradient::f32(bytes)).collect();
    Reduction::sum().reduce_into(&gradients, out)
}

/// [`Format::all_finite`] of little-endian `f32`s.
pub fn all_finite(bytes: &[u8]) -> bool {
    Format::F32.all_finite(bytes)
}

/// [`Format::first_not_finite`] of little-endian `f32`s.
pub fn first_not_finite(bytes: &[u8]) -> Option<NotFinite> {
    Format::F32.first_not_finite(bytes)
}

#[cfg(test)]
mod tests;
