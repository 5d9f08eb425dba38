//! Sums of gradients.
//!
//! A reduction is bound by memory, so what matters is that each gradient is read once, front to back, and that the running
//! sum stays close to the processor. Both follow from working block by block: a block's sum is made in place, in the result,
//! where it stays in the first-level cache until all gradients are in it; each is taken in by a loop of its own, which
//! compilers vectorise whatever the format, so that one body serves any number of gradients in any mix.
//!
//! Keeping the sum in registers is what one would write by hand. Compilers do not do it reliably for a loop over
//! gradients, and where they put it on the stack across cache lines, the whole takes three times as long; this takes half
//! as many loads as the caches serve beside what memory delivers. Measured on Zen 4, mean of four: 70 GB/s in the caches,
//! and in memory as much as reading alone. Not optimal: for results that are not read soon, non-temporal stores would save
//! reading `out` into the cache (the server's are read at once, by the optimizer).

use std::ops::Range;

use super::{Kernel, WIDENED, Widen, bf16, carry, f16};
use crate::format::{Format, Gradient};

/// Elements summed before the next are begun. Measured from 64 to 2048: shorter ones cost instructions, with longer ones
/// memory has fewer gradients to deliver at a time.
const BLOCK: usize = 256;

/// Where blocks start, so that no register of the sum lies across two lines.
const CACHE_LINE: usize = 64;

/// Adds gradients up in order, finishes, writes to `out`, and says whether all that it wrote is finite.
///
/// All have the length of `out`, which [`Reduction::reduce_into`](crate::Reduction::reduce_into) has made sure of;
/// otherwise this panics.
pub(crate) struct Reduce<'a, 'b> {
    pub gradients: &'a [Gradient<'b>],
    /// Where to start in each gradient, in elements.
    pub start: usize,
    pub finish: Finish,
    pub out: &'a mut [f32],
}

/// What is done to a sum before it is written, each step rounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish {
    pub mean: Mean,
    /// Multiplied with, one after the other.
    pub factors: [f32; 2],
}

/// How a sum becomes a mean.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mean {
    /// It does not.
    Sum,
    /// By multiplication, for a division by a power of two: both round the same real number, so they give the same
    /// bits, and a multiplication takes a tenth of the time.
    Multiply(f32),
    /// By division.
    Divide(f32),
}

impl Mean {
    /// Of `count` gradients. A count above 2^24 is rounded to `f32` as everything else.
    pub(crate) fn of(count: usize) -> Self {
        match count {
            0 | 1 => Self::Sum,
            // The reciprocal of a power of two is exact.
            _ if count.is_power_of_two() => Self::Multiply(1.0 / count as f32),
            _ => Self::Divide(count as f32),
        }
    }
}

impl Kernel for Reduce<'_, '_> {
    type Output = bool;

    #[inline(always)]
    fn run<W: Widen>(self, widen: W) -> bool {
        let Self { gradients, start, finish, out } = self;
        let Some((first, others)) = gradients.split_first() else { return true };
        let unaligned = out.as_ptr().align_offset(CACHE_LINE).min(out.len());
        let (head, aligned) = out.split_at_mut(unaligned);
        let (mut start, mut carries) = (start, 0);
        for sum in head.chunks_mut(BLOCK).chain(aligned.chunks_mut(BLOCK)) {
            let elements = start..start + sum.len();
            take_in(sum, first, elements.clone(), widen, |sum, value| *sum = value);
            for other in others {
                take_in(sum, other, elements.clone(), widen, |sum, value| *sum += value);
            }
            carries |= finish.apply(sum);
            start = elements.end;
        }
        carries >> 31 == 0
    }
}

/// Takes these elements of a gradient into their sum.
#[inline(always)]
fn take_in(
    sum: &mut [f32],
    gradient: &Gradient<'_>,
    elements: Range<usize>,
    widen: impl Widen,
    how: impl Fn(&mut f32, f32),
) {
    let width = gradient.format().element_bytes();
    let bytes = &gradient.bytes()[elements.start * width..elements.end * width];
    match gradient.format() {
        Format::F32 => {
            for (sum, value) in sum.iter_mut().zip(bytes.as_chunks().0) {
                how(sum, f32::from_le_bytes(*value));
            }
        }
        Format::Bf16 => {
            for (sum, value) in sum.iter_mut().zip(bytes.as_chunks().0) {
                how(sum, bf16(u16::from_le_bytes(*value)));
            }
        }
        Format::F16 => {
            let (sums, sum_rest) = sum.as_chunks_mut::<WIDENED>();
            let (halves, halves_rest) = bytes.as_chunks::<2>().0.as_chunks::<WIDENED>();
            for (sum, halves) in sums.iter_mut().zip(halves) {
                for (sum, value) in sum.iter_mut().zip(widen.f16(halves)) {
                    how(sum, value);
                }
            }
            for (sum, value) in sum_rest.iter_mut().zip(halves_rest) {
                how(sum, f16(u16::from_le_bytes(*value)));
            }
        }
    }
}

impl Finish {
    /// Finishes a sum in `f64`, rounded once at the end.
    pub(crate) fn widened(self, sum: f64) -> f32 {
        let mean = match self.mean {
            Mean::Sum => sum,
            Mean::Multiply(factor) => sum * f64::from(factor),
            Mean::Divide(divisor) => sum / f64::from(divisor),
        };
        self.factors.into_iter().fold(mean, |value, factor| value * f64::from(factor)) as f32
    }

    /// Finishes a sum, and returns all [`carry`]s of the result in one.
    #[inline(always)]
    fn apply(self, sum: &mut [f32]) -> u32 {
        // Where a factor is 1, it changes nothing, and costs less than asking.
        let [scale, clip] = self.factors;
        match self.mean {
            Mean::Sum => each(sum, |sum| sum * scale * clip),
            Mean::Multiply(factor) => each(sum, |sum| sum * factor * scale * clip),
            Mean::Divide(divisor) => each(sum, |sum| sum / divisor * scale * clip),
        }
    }
}

#[inline(always)]
fn each(sum: &mut [f32], finish: impl Fn(f32) -> f32) -> u32 {
    sum.iter_mut().fold(0, |carries, sum| {
        *sum = finish(*sum);
        carries | carry(sum.to_bits())
    })
}
