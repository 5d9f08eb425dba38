//! The largest magnitude of elements, which says as well whether all are numbers.

use super::{Kernel, Widen};
use crate::format::Format;

/// The bits of the largest magnitude. Magnitudes are in the order of their bits, and above all of them are those of
/// infinities and then of NaNs.
pub(crate) struct Largest<'a> {
    pub format: Format,
    pub bytes: &'a [u8],
}

impl Kernel for Largest<'_> {
    type Output = u32;

    #[inline(always)]
    fn run<W: Widen>(self, _widen: W) -> u32 {
        match self.format {
            Format::F32 => {
                let bits = |value: &[u8; 4]| u32::from_le_bytes(*value) & 0x7fff_ffff;
                self.bytes.as_chunks().0.iter().fold(0, |largest, value| largest.max(bits(value)))
            }
            Format::Bf16 | Format::F16 => {
                let bits = |value: &[u8; 2]| u16::from_le_bytes(*value) & 0x7fff;
                u32::from(self.bytes.as_chunks().0.iter().fold(0, |largest, value| largest.max(bits(value))))
            }
        }
    }
}
