//! What a reduction is, and its errors.

use thiserror::Error;

use crate::format::{Format, Gradient, NotFinite};
use crate::instruction_set::InstructionSet;
use crate::kernel::{Finish, Mean, Reduce};
use crate::norm::{NORM_CHUNK_ELEMENTS, SquareSums};

/// How gradients become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Aggregation {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// Gradients to one gradient: the sum or the mean, times two factors.
///
/// There are two so that a result that was [scaled](Self::scaled), measured and found too long gives the same bits when
/// it is computed again [clipped](Self::clipped) as when each of its elements is multiplied in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reduction {
    aggregation: Aggregation,
    scale: f32,
    clip: f32,
}

/// Why a reduction has no result, or none to use.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ReduceError {
    /// There is no gradient. Nothing was written.
    #[error("there is no gradient to reduce; at least one is needed")]
    NoGradients,
    /// A gradient is not as long as the result. Nothing was written.
    #[error(
        "gradient {index} has {found} bytes, the result of {elements} elements needs {} of {format}",
        elements * format.element_bytes()
    )]
    Length {
        /// Which, in the order given.
        index: usize,
        /// How it is encoded.
        format: Format,
        /// Its length, in bytes.
        found: usize,
        /// Length of the result, in elements.
        elements: usize,
    },
    /// An element of the result is NaN or infinite: it is too large for an `f32`, or a gradient or factor was not finite.
    /// All of the result was written.
    #[error("{0} in the result; gradients or factors are too large, or no numbers")]
    NotFinite(NotFinite),
}

impl From<Aggregation> for Reduction {
    fn from(aggregation: Aggregation) -> Self {
        Self { aggregation, scale: 1.0, clip: 1.0 }
    }
}

impl Reduction {
    /// The mean of the gradients.
    pub const fn mean() -> Self {
        Self { aggregation: Aggregation::Mean, scale: 1.0, clip: 1.0 }
    }

    /// The sum of the gradients.
    pub const fn sum() -> Self {
        Self { aggregation: Aggregation::Sum, scale: 1.0, clip: 1.0 }
    }

    /// With each element of the sum or mean multiplied by `scale`, instead of by a scale set before: for losses that
    /// were scaled to keep half-precision gradients from vanishing, its reciprocal.
    pub const fn scaled(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    /// With each element of the scaled result multiplied by `clip`, such as [`clip_factor`](crate::clip_factor) gives it,
    /// instead of by one set before.
    pub const fn clipped(self, clip: f32) -> Self {
        Self { clip, ..self }
    }

    /// Writes the reduction of `gradients`, taken in the order given, to `out`.
    ///
    /// Each gradient has as many elements as `out`, in whatever format it is. One pass over memory, in which the result
    /// is also looked at: [`ReduceError::NotFinite`] names the first element that is no number.
    pub fn reduce_into(&self, gradients: &[Gradient<'_>], out: &mut [f32]) -> Result<(), ReduceError> {
        self.reduce_with(InstructionSet::best(), gradients, out)
    }

    /// [`reduce_into`](Self::reduce_into), and appends the sums of the result's squares while it is still in the
    /// processor's cache. They are appended too where the result is not finite.
    pub fn reduce_and_square_into(
        &self,
        gradients: &[Gradient<'_>],
        out: &mut [f32],
        squares: &mut SquareSums,
    ) -> Result<(), ReduceError> {
        check(gradients, out.len())?;
        let (instruction_set, finish) = (InstructionSet::best(), self.finish(gradients.len()));
        let mut found = Ok(());
        for (index, out) in out.chunks_mut(NORM_CHUNK_ELEMENTS).enumerate() {
            let start = index * NORM_CHUNK_ELEMENTS;
            if !instruction_set.run(Reduce { gradients, start, finish, out }) {
                found = found.and(widen_not_finite(gradients, start, finish, out));
            }
            squares.append_with(instruction_set, out);
        }
        found
    }

    pub(crate) fn reduce_with(
        &self,
        instruction_set: InstructionSet,
        gradients: &[Gradient<'_>],
        out: &mut [f32],
    ) -> Result<(), ReduceError> {
        check(gradients, out.len())?;
        let finish = self.finish(gradients.len());
        let finite = instruction_set.run(Reduce { gradients, start: 0, finish, out });
        if finite { Ok(()) } else { widen_not_finite(gradients, 0, finish, out) }
    }

    fn finish(&self, gradients: usize) -> Finish {
        let mean = match self.aggregation {
            Aggregation::Mean => Mean::of(gradients),
            Aggregation::Sum => Mean::Sum,
        };
        Finish { mean, factors: [self.scale, self.clip] }
    }
}

fn check(gradients: &[Gradient<'_>], elements: usize) -> Result<(), ReduceError> {
    if gradients.is_empty() {
        return Err(ReduceError::NoGradients);
    }
    let length = |gradient: &Gradient<'_>| elements.checked_mul(gradient.format().element_bytes());
    match gradients.iter().enumerate().find(|(_, gradient)| Some(gradient.bytes().len()) != length(gradient)) {
        None => Ok(()),
        Some((index, gradient)) => {
            let (format, found) = (gradient.format(), gradient.bytes().len());
            Err(ReduceError::Length { index, format, found, elements })
        }
    }
}

/// Computes elements that are not finite once more with a sum in `f64`, which no sum of `f32`s overflows, and names the
/// first that is not finite even so. `start` is where `out` begins in each gradient.
#[cold]
fn widen_not_finite(
    gradients: &[Gradient<'_>],
    start: usize,
    finish: Finish,
    out: &mut [f32],
) -> Result<(), ReduceError> {
    let mut found = Ok(());
    for (index, value) in out.iter_mut().enumerate().filter(|(_, value)| !value.is_finite()) {
        let sum = gradients.iter().map(|gradient| f64::from(gradient.element(start + index))).sum();
        *value = finish.widened(sum);
        if !value.is_finite() {
            let not_finite = NotFinite { index: start + index, value: *value };
            found = found.and(Err(ReduceError::NotFinite(not_finite)));
        }
    }
    found
}
