//! The Euclidean norm of gradients, and clipping by it.

use crate::instruction_set::InstructionSet;
use crate::kernel::Squares;

/// Elements whose squares make one sum. A tensor that is cut at multiples of it has the same sums however it is cut.
pub const NORM_CHUNK_ELEMENTS: usize = 4096;

/// The sums of the squares of a tensor's elements, in f64, one for each [`NORM_CHUNK_ELEMENTS`].
///
/// Kept apart until the end, so that the norm has the same bits on every machine and for every cut of a tensor into
/// slices: slices' sums are [joined](Self::join) in their order, and only then added up, front to back. Within a chunk,
/// element `i` goes to the `i` mod 32nd of 32 sums, in order, and these are added up by halves: 0 and 16, 1 and 17, …,
/// then 0 and 8, …. A chunk's sum is `f64` for 4096 `f32`s, a two-thousandth of the memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SquareSums {
    chunks: Vec<f64>,
}

impl SquareSums {
    /// Of no elements.
    pub const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Appends the elements that come next in the tensor. All but the last time their number must be a multiple of
    /// [`NORM_CHUNK_ELEMENTS`] for the sums to be those of the whole.
    pub fn append(&mut self, values: &[f32]) {
        self.append_with(InstructionSet::best(), values);
    }

    /// Appends the sums of the slice that comes next in the tensor.
    pub fn join(&mut self, next: &Self) {
        self.chunks.extend_from_slice(&next.chunks);
    }

    /// The sum of all squares. It does not overflow: the square of the largest `f32` is 10⁷⁷, and `f64` goes to 10³⁰⁸.
    pub fn total(&self) -> f64 {
        self.chunks.iter().sum()
    }

    /// The Euclidean norm. That of several tensors together is the square root of the sum of their
    /// [totals](Self::total).
    pub fn norm(&self) -> f64 {
        self.total().sqrt()
    }

    pub(crate) fn append_with(&mut self, instruction_set: InstructionSet, values: &[f32]) {
        let chunks = values.chunks(NORM_CHUNK_ELEMENTS);
        self.chunks.extend(chunks.map(|values| instruction_set.run(Squares { values })));
    }
}

/// What to multiply gradients with whose norm is `norm`, so that it becomes at most `bound` but for rounding: 1 where it
/// is so already, else `bound / norm`. Clipping by the (global) norm: Pascanu, Mikolov and Bengio, "On the difficulty of
/// training recurrent neural networks", 2013.
///
/// A norm that is NaN gives NaN, which the reduction it is used in will say.
pub fn clip_factor(norm: f64, bound: f64) -> f32 {
    if norm <= bound { 1.0 } else { (bound / norm) as f32 }
}
