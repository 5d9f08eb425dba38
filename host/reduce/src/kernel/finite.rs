//! Search for elements that are no numbers.

use super::{Half, Kernel, Single, Widen, carry};
use crate::format::Format;

/// Bytes looked at before a search may end early.
const BLOCK: usize = 1024;

/// How many bytes at the front hold finite numbers only: all, or some up to somewhere before the first element that is
/// not finite, and that less than a block before.
pub(crate) struct FinitePrefix<'a> {
    pub format: Format,
    pub bytes: &'a [u8],
}

impl Kernel for FinitePrefix<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<W: Widen>(self, _widen: W) -> usize {
        match self.format {
            Format::F32 => prefix(self.bytes, |block| {
                let carry = |value: &Single| carry(u32::from_le_bytes(*value));
                block.as_chunks().0.iter().fold(0, |carries, value| carries | carry(value)) >> 31 == 0
            }),
            Format::Bf16 => prefix(self.bytes, |block| halves_are_finite(block, 0x7f80)),
            Format::F16 => prefix(self.bytes, |block| halves_are_finite(block, 0x7c00)),
        }
    }
}

/// [`carry`] for formats of two bytes, whose exponents `exponent` masks.
#[inline(always)]
fn halves_are_finite(block: &[u8], exponent: u16) -> bool {
    let lowest = exponent & exponent.wrapping_neg();
    let carry = |value: &Half| (u16::from_le_bytes(*value) & exponent) + lowest;
    block.as_chunks().0.iter().fold(0, |carries, value| carries | carry(value)) >> 15 == 0
}

#[inline(always)]
fn prefix(bytes: &[u8], is_finite: impl Fn(&[u8]) -> bool) -> usize {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    match blocks.iter().position(|block| !is_finite(block)) {
        Some(block) => block * BLOCK,
        None if is_finite(rest) => bytes.len(),
        None => bytes.len() - rest.len(),
    }
}
