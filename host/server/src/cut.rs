//! How a tensor is cut into slices, and which shard thread owns which.
//!
//! Slices start at multiples of the contract's chunk, so no optimizer's result depends on the cut, and with it not on the
//! number of shard threads either.

use std::ops::Range;

/// Elements that belong together for the contract; slices start at multiples of it.
const CHUNK_ELEMENTS: u64 = stepbox_sandbox::CHUNK_ELEMENTS as u64;

/// The longest slice, in elements: one block of the sandbox, so that what it saves of a slice before a step is still in
/// the processor's cache when the step runs.
pub const MAX_SLICE_ELEMENTS: u64 = 1 << 18;

/// A tensor is spread over shard threads only in slices of at least this many elements: below 64 Ki, handing work to
/// another thread and waiting for it costs more than doing it.
pub const MIN_SPREAD_ELEMENTS: u64 = 1 << 16;

/// A run of consecutive elements of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Index of its first element in the tensor.
    pub start: u64,
    /// Its length; at most [`MAX_SLICE_ELEMENTS`].
    pub elements: u32,
    /// The shard thread that owns it.
    pub shard: usize,
}

impl Slice {
    /// Where its `f32`s lie among the tensor's bytes.
    pub fn bytes(&self) -> Range<usize> {
        // A tensor's bytes have been allocated by the time this is asked, so they fit.
        let start = self.start as usize * 4;
        start..start + self.elements as usize * 4
    }
}

/// Cuts a tensor of `elements` for as many shards as `load` has entries (the elements each owns already, which are
/// counted up), starting with the one that has least to do. A tensor without elements has no slices.
pub(crate) fn cut(elements: u64, load: &mut [u64]) -> Vec<Slice> {
    if elements == 0 {
        return Vec::new();
    }
    let shards = load.len().max(1);
    let spread = (elements / MIN_SPREAD_ELEMENTS).clamp(1, shards as u64);
    // At least so many that none is too large, and a multiple of the shards it is spread over.
    let slices = elements.div_ceil(MAX_SLICE_ELEMENTS).next_multiple_of(spread);
    let length = elements.div_ceil(slices).next_multiple_of(CHUNK_ELEMENTS);

    let first = (0..load.len()).min_by_key(|shard| load[*shard]).unwrap_or(0);
    (0..elements.div_ceil(length))
        .map(|index| {
            let start = index * length;
            let elements = length.min(elements - start);
            // Neighbours go to different shards: all of them work on a tensor from its first slice on.
            let shard = (first + index as usize) % shards;
            load[shard] += elements;
            Slice { start, elements: elements as u32, shard }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_tensors_stay_whole_and_spread_over_shards_between_them() {
        let mut load = [0; 2];
        let first = cut(1000, &mut load);
        let second = cut(10, &mut load);
        assert_eq!(first, [Slice { start: 0, elements: 1000, shard: 0 }]);
        assert_eq!(second, [Slice { start: 0, elements: 10, shard: 1 }]);
        assert_eq!(cut(1, &mut load)[0].shard, 1, "where there is least to do");
        assert_eq!(cut(0, &mut load), []);
    }

    #[test]
    fn a_large_tensor_keeps_all_shards_busy() {
        let mut load = [0; 4];
        assert_eq!(cut(MIN_SPREAD_ELEMENTS * 4, &mut load).len(), 4);
        assert_eq!(load, [MIN_SPREAD_ELEMENTS; 4]);
    }

    proptest! {
        #[test]
        fn slices_cover_the_tensor_once_within_limits(elements in 0_u64..50_000_000, shards in 1_usize..9) {
            let mut load = vec![0; shards];
            let slices = cut(elements, &mut load);
            let mut next = 0;
            for slice in &slices {
                prop_assert_eq!(slice.start, next);
                prop_assert_eq!(slice.start % CHUNK_ELEMENTS, 0);
                prop_assert!(slice.elements > 0 && u64::from(slice.elements) <= MAX_SLICE_ELEMENTS);
                prop_assert!(slice.shard < shards);
                next += u64::from(slice.elements);
            }
            prop_assert_eq!(next, elements);
            prop_assert_eq!(load.iter().sum::<u64>(), elements);
        }
    }
}
