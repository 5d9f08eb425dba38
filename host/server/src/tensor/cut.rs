//! How a tensor is cut into slices, and which shard thread owns which.
//!
//! Slices start at multiples of the contract's chunk, so no optimizer's result depends on the cut, and with it not on the
//! number of shard threads either. Each key has one cut, made when it becomes known. Optimizers that see a tensor whole,
//! or row by row, or add up its rows and columns in order, have cuts of their own.

use std::ops::Range;

use stepbox_sandbox::{Granularity, Plan};

/// Elements that belong together for the contract; slices start at multiples of it.
const CHUNK_ELEMENTS: u64 = stepbox_sandbox::CHUNK_ELEMENTS as u64;

/// The longest slice, in elements: one block of the sandbox, so that what it saves of a slice before a step is still in
/// the processor's cache when the step runs.
pub const MAX_SLICE_ELEMENTS: u64 = 1 << 18;

/// A tensor is spread over shard threads only in slices of at least this many elements: below 64 Ki, handing work to
/// another thread and waiting for it costs more than doing it.
pub const MIN_SPREAD_ELEMENTS: u64 = 1 << 16;

/// The longest slice of a tensor of which only touched rows are visited, in elements: 64 MiB of parameters. Nothing of
/// it is saved as a whole, and fewer slices are fewer calls.
pub const MAX_ROW_SLICE_ELEMENTS: u64 = 16 << 20;

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

/// The shards that own these slices, each once.
pub(crate) fn shards(slices: &[Slice]) -> Vec<usize> {
    let mut shards: Vec<_> = slices.iter().map(|slice| slice.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
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

/// The cut that an optimizer's plan needs, from the key's own. `key` is any number that spreads keys over shards.
pub(crate) fn for_plan(plan: &Plan, slices: &[Slice], shards: usize, key: u64) -> Vec<Slice> {
    let Some(last) = slices.last() else { return Vec::new() };
    let elements = last.start + u64::from(last.elements);
    let pinned = (key % shards as u64) as usize;
    match (plan.granularity, plan.slice_unit()) {
        (Granularity::Elements, _) if !plan.is_ordered() => slices.to_vec(),
        (Granularity::Elements, _) => slices.iter().map(|slice| Slice { shard: pinned, ..slice.clone() }).collect(),
        // What does not fit 32 bits does not fit an instance either, and binding it will say so.
        (_, None) => vec![Slice { start: 0, elements: u32::try_from(elements).unwrap_or(u32::MAX), shard: pinned }],
        (_, Some(unit)) => {
            let even = elements.div_ceil(shards as u64).clamp(MIN_SPREAD_ELEMENTS, MAX_ROW_SLICE_ELEMENTS);
            let length = even.next_multiple_of(unit);
            (0..elements.div_ceil(length))
                .map(|index| {
                    let start = index * length;
                    let elements = u32::try_from(length.min(elements - start)).unwrap_or(u32::MAX);
                    Slice { start, elements, shard: (pinned + index as usize) % shards }
                })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stepbox_sandbox::{Accumulator, Combination, Contributor, Geometry, Scope};

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

    #[test]
    fn plans_that_see_more_than_elements_have_cuts_of_their_own() {
        let shape = [1000, 300];
        let geometry = Geometry::of(&shape).unwrap();
        let plan = |granularity, scope| Plan {
            slots: Vec::new(),
            accumulators: vec![Accumulator {
                name: "sums".into(),
                contributor: Contributor::Optimizer { phase: 0 },
                combination: Combination::Sum,
                scope,
                read_from: 1,
            }],
            phases: Vec::new(),
            evaluation: None,
            granularity,
            work_bytes: 0,
            geometry,
        };
        let own = cut(300_000, &mut [0; 3]);
        assert_eq!(shards(&own), [0, 1, 2]);
        assert_eq!(for_plan(&plan(Granularity::Elements, Scope::Tensor), &own, 3, 4), own);
        let ordered = for_plan(&plan(Granularity::Elements, Scope::Row), &own, 3, 4);
        assert_eq!((shards(&ordered), ordered.len()), (vec![1], own.len()), "its slices one after the other");
        let whole = for_plan(&plan(Granularity::Tensor, Scope::Tensor), &own, 3, 5);
        assert_eq!(whole, [Slice { start: 0, elements: 300_000, shard: 2 }]);
        let rows = for_plan(&plan(Granularity::TouchedRows, Scope::Tensor), &own, 3, 0);
        assert!(rows.iter().all(|slice| slice.start % 300 == 0 && slice.start % CHUNK_ELEMENTS == 0), "{rows:?}");
        assert_eq!(rows.iter().map(|slice| u64::from(slice.elements)).sum::<u64>(), 300_000);
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
