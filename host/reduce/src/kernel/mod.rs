//! The algorithms, in safe Rust, which [`InstructionSet`](crate::InstructionSet) has compiled once for each instruction
//! set.
//!
//! Intrinsics would add unsafe loads and one more text per instruction set that must agree to the bit; loops of constant
//! length over arrays vectorise completely. The one thing that compilers do not find is the instruction that widens
//! binary16, so that is what an instruction set may bring with it: [`Widen`].

mod copy;
mod finite;
mod largest;
mod reduce;
mod squares;

pub(crate) use copy::{Copy, Value};
pub(crate) use finite::FinitePrefix;
pub(crate) use largest::Largest;
pub(crate) use reduce::{Finish, Mean, Reduce};
pub(crate) use squares::Squares;

/// A little-endian `f32` at any alignment.
pub(crate) type Single = [u8; 4];

/// A little-endian binary16 or bfloat16 at any alignment.
pub(crate) type Half = [u8; 2];

/// Elements widened at a time: a register of AVX-512.
pub(crate) const WIDENED: usize = 16;

/// An algorithm and what it works on. `run` is marked `#[inline(always)]` in every implementation: it takes the
/// instructions of the function that it is inlined in.
pub(crate) trait Kernel {
    type Output;

    fn run<W: Widen>(self, widen: W) -> Self::Output;
}

/// How binary16 becomes `f32`. Exact: every binary16 is an `f32`.
pub(crate) trait Widen: std::marker::Copy {
    /// With the best instructions there are. The payload of a NaN is not promised.
    fn f16(self, values: &[Half; WIDENED]) -> [f32; WIDENED];
}

/// [`Widen`] with integer arithmetic and one conversion, which all processors have vectors for.
#[derive(Debug, Clone, std::marker::Copy)]
pub(crate) struct Arithmetically;

impl Widen for Arithmetically {
    #[inline(always)]
    fn f16(self, values: &[Half; WIDENED]) -> [f32; WIDENED] {
        values.map(|value| f16(u16::from_le_bytes(value)))
    }
}

/// Binary16 to `f32`, without branches, and without arithmetic on denormal `f32`s, which takes a hundred cycles on some
/// processors: gradients have many denormal binary16.
#[inline(always)]
pub(crate) fn f16(value: u16) -> f32 {
    /// The difference of the exponents' biases, 127 − 15, in its place.
    const REBIAS: u32 = 112 << 23;
    /// The exponent of infinities and NaNs, moved to the place of that of `f32`.
    const SPECIAL: u32 = 0x7c00 << 13;
    /// The smallest normal number, so moved.
    const NORMAL: u32 = 0x0400 << 13;
    /// A denormal number is its significand times 2⁻²⁴.
    const UNIT: f32 = 1.0 / (1 << 24) as f32;

    let magnitude = u32::from(value & 0x7fff);
    let moved = magnitude << 13;
    let normal = moved + REBIAS;
    let denormal = (magnitude as i32 as f32 * UNIT).to_bits();
    // Rebiased twice, the exponent 31 becomes 255.
    let special = normal + REBIAS;
    let finite = if moved < NORMAL { denormal } else { normal };
    let bits = if moved < SPECIAL { finite } else { special };
    f32::from_bits(bits | u32::from(value & 0x8000) << 16)
}

/// The upper half of an `f32` to the whole.
#[inline(always)]
pub(crate) fn bf16(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

/// Has its top bit set where the `f32` of these bits is NaN or infinite; the other bits say nothing.
///
/// The exponent is all ones in those only. Its lowest bit is added to it alone: where it is all ones, that carries into
/// the sign's place, and else it does not.
#[inline(always)]
pub(crate) fn carry(bits: u32) -> u32 {
    (bits & 0x7f80_0000) + 0x0080_0000
}
