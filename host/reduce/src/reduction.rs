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
    /// An element of the result is NaN or infinite: the sum of finite gradients has overflowed, or a gradient or factor
    /// was not finite. All of the result was written.
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
        let mut finite = true;
        for (index, out) in out.chunks_mut(NORM_CHUNK_ELEMENTS).enumerate() {
            let start = index * NORM_CHUNK_ELEMENTS;
            finite &= instruction_set.run(Reduce { gradients, start, finish, out });
            squares.append_with(instruction_set, out);
        }
        if finite { Ok(()) } else { refuse_not_finite(out) }
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
        if finite { Ok(()) } else { refuse_not_finite(out) }
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

/// Names the first element that is not finite, which the kernel has said there is.
#[cold]
fn refuse_not_finite(out: &[f32]) -> Result<(), ReduceError> {
    match out.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((index, value)) => Err(ReduceError::NotFinite(NotFinite { index, value: *value })),
    }
}
