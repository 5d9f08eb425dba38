//! Looking for NaN and infinities, as fast as the caches deliver numbers: with the widest instructions of this machine,
//! which `pulp` selects at run time.

use pulp::{Arch, Simd, WithSimd};

const EXPONENT: u32 = 0x7f80_0000;

/// Numbers that are looked at between two looks at the result: a few kilobytes, so that a search ends early, and long
/// enough that the vectorised loop dominates.
const BLOCK: usize = 1024;

/// The first NaN or infinity.
pub(crate) fn first_not_finite(values: &[f32]) -> Option<usize> {
    if Arch::new().dispatch(AllFinite(values)) { None } else { values.iter().position(|value| !value.is_finite()) }
}

/// Copies numbers as little-endian bytes and says whether all are finite. `out` has four bytes for each.
pub(crate) fn copy_finite(values: &[f32], out: &mut [u8]) -> bool {
    let (out, rest) = out.as_chunks_mut::<4>();
    assert!(out.len() == values.len() && rest.is_empty(), "four bytes for each number");
    Arch::new().dispatch(CopyFinite { values, out })
}

struct AllFinite<'a>(&'a [f32]);

impl WithSimd for AllFinite<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> bool {
        self.0.chunks(BLOCK).all(|block| block.iter().fold(true, |finite, value| finite & is_finite(*value)))
    }
}

struct CopyFinite<'a> {
    values: &'a [f32],
    out: &'a mut [[u8; 4]],
}

impl WithSimd for CopyFinite<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> bool {
        let mut finite = true;
        for (out, value) in self.out.iter_mut().zip(self.values) {
            *out = value.to_le_bytes();
            finite &= is_finite(*value);
        }
        finite
    }
}

#[inline(always)]
fn is_finite(value: f32) -> bool {
    value.to_bits() & EXPONENT != EXPONENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_not_finite_is_found_wherever_it_is() {
        let finite = [f32::MAX, f32::MIN, 0.0, -0.0, 1e-45];
        for length in [0, 1, 31, 32, 33, 100, BLOCK, 2 * BLOCK + 7] {
            let mut values: Vec<f32> = finite.into_iter().cycle().take(length).collect();
            let mut copied = vec![0; length * 4];
            assert_eq!(first_not_finite(&values), None);
            assert!(copy_finite(&values, &mut copied));
            assert!(copied.chunks(4).zip(&values).all(|(bytes, value)| bytes == value.to_le_bytes()));
            for position in (0..length).rev().step_by(7) {
                values[position] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][position % 3];
                assert_eq!(first_not_finite(&values), Some(position));
                assert!(!copy_finite(&values, &mut copied));
            }
        }
    }
}
