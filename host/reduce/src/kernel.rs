//! The one algorithm, in safe Rust, which [`InstructionSet`](crate::InstructionSet) has compiled once for each
//! instruction set.
//!
//! A reduction is bound by memory, so all that matters is that each gradient is read once, front to back, and that the
//! running sum stays in registers. Both follow from working block by block: a block's sum is 64 floats (4 registers of
//! AVX-512, 8 of AVX2), the innermost loops have that constant length and vectorise completely, and the loop over
//! gradients stands between, so that one body serves any number of them. Measured on Zen 4 against hand-written
//! intrinsics for four gradients: equal within noise in the caches and in memory (28 GB/s), and faster there than a loop
//! unrolled over a fixed number of gradients, element by element.
//!
//! Intrinsics would add unsafe loads and one more text per instruction set that must agree to the bit. What is not
//! optimal: the tail of up to 63 elements is done by the same loop at a length that is not constant, which costs some
//! 20 ns a call, and for results that are not read soon, non-temporal stores would save reading `out` into the cache
//! (the server's are read at once, by the optimizer).

/// A little-endian `f32` at any alignment.
pub(crate) type Element = [u8; 4];

/// Elements summed before any is written: as many as fit half of the registers of AVX2.
const BLOCK: usize = 64;

/// Elements looked at before a search for non-finite ones may end early.
const SEARCH_BLOCK: usize = 256;

/// What is done to a sum before it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Finish {
    /// Nothing.
    Sum,
    /// Multiplication, for a division by a power of two: both round the same real number, so they give the same bits,
    /// and a multiplication takes a tenth of the time.
    Multiply(f32),
    /// Division.
    Divide(f32),
}

impl Finish {
    /// The mean of `count` gradients. A count above 2^24 is rounded to `f32` as everything else.
    pub(crate) fn mean(count: usize) -> Self {
        match count {
            0 | 1 => Self::Sum,
            // The reciprocal of a power of two is exact.
            _ if count.is_power_of_two() => Self::Multiply(1.0 / count as f32),
            _ => Self::Divide(count as f32),
        }
    }
}

/// Adds `others` to `first` in order, finishes, and writes to `out`.
///
/// All have the length of `out` (in elements; `others` in bytes), which [`reduce_into`](crate::reduce_into) has made
/// sure of; otherwise this panics.
#[inline(always)]
pub(crate) fn reduce(first: &[Element], others: &[&[u8]], finish: Finish, out: &mut [f32]) {
    let (out_blocks, out_rest) = out.as_chunks_mut::<BLOCK>();
    let (first_blocks, first_rest) = first.as_chunks::<BLOCK>();
    assert!(first_blocks.len() == out_blocks.len() && first_rest.len() == out_rest.len());

    for (index, (out, first)) in out_blocks.iter_mut().zip(first_blocks).enumerate() {
        let start = index * size_of_val(out);
        let mut sum = [0.0; BLOCK];
        set(&mut sum, first);
        for other in others {
            let block: &[u8; BLOCK * 4] = other[start..].first_chunk().expect("others are as long as `out`");
            add(&mut sum, block.as_chunks().0);
        }
        write(out, &sum, finish);
    }

    let start = size_of_val(out_blocks);
    let sum = &mut [0.0; BLOCK][..out_rest.len()];
    set(sum, first_rest);
    for other in others {
        add(sum, other[start..].as_chunks().0);
    }
    write(out_rest, sum, finish);
}

#[inline(always)]
fn set(sum: &mut [f32], values: &[Element]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum = f32::from_le_bytes(*value);
    }
}

#[inline(always)]
fn add(sum: &mut [f32], values: &[Element]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += f32::from_le_bytes(*value);
    }
}

#[inline(always)]
fn write(out: &mut [f32], sum: &[f32], finish: Finish) {
    match finish {
        Finish::Sum => out.copy_from_slice(sum),
        Finish::Multiply(factor) => out.iter_mut().zip(sum).for_each(|(out, sum)| *out = sum * factor),
        Finish::Divide(divisor) => out.iter_mut().zip(sum).for_each(|(out, sum)| *out = sum / divisor),
    }
}

/// Whether no element is NaN or infinite.
#[inline(always)]
pub(crate) fn all_finite(values: &[Element]) -> bool {
    let (blocks, rest) = values.as_chunks::<SEARCH_BLOCK>();
    blocks.iter().all(|block| block_is_finite(block)) && block_is_finite(rest)
}

#[inline(always)]
fn block_is_finite(values: &[Element]) -> bool {
    /// The exponent, whose bits are all ones in NaN and infinities only.
    const EXPONENT: u32 = 0x7f80_0000;
    /// Its lowest bit: added to an exponent of all ones, it carries into the sign's place, and else it does not.
    const CARRY: u32 = 0x0080_0000;
    let carries = values.iter().fold(0, |carries, value| carries | ((u32::from_le_bytes(*value) & EXPONENT) + CARRY));
    carries >> 31 == 0
}
