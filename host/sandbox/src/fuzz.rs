//! Entry points for fuzzing, beside the checks that they attack: whatever an optimizer plans, and whatever room it offers,
//! nothing may panic, and what passes must be as the server goes on to take for granted.

use std::ops::Range;

use crate::contract::bindings::types;
use crate::contract::plan::Plan;
use crate::contract::tensor::TensorDescription;
use crate::limits::{DECLARATION_NAME_BYTES, DECLARATIONS, MAX_BLOCK_ELEMENTS};
use crate::pool::placement::ScratchRequest;
use crate::slice::layout::{ALIGNMENT, COLOUR_SLACK, Layout, Reservations, View};

/// Numbers at which sums and products overflow, and their neighbours.
const EDGES: [u64; 12] =
    [0, 1, 2, 4095, 4096, 4097, 1 << 16, (1 << 31) - 1, u32::MAX as u64, 1 << 32, 1 << 62, u64::MAX];

/// Reads bytes as what a component may say; zeros behind their end.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// An edge, or any number.
    fn number(&mut self) -> u64 {
        match self.byte() {
            edge if usize::from(edge) < EDGES.len() => EDGES[usize::from(edge)],
            width => (0..width % 9).fold(0, |number, _| number << 8 | u64::from(self.byte())),
        }
    }

    /// Mostly few, sometimes more than are allowed.
    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = match self.byte() {
            255 => DECLARATIONS + 1,
            count => usize::from(count % 8),
        };
        (0..count).map(|_| one(self)).collect()
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    fn name(&mut self) -> String {
        match self.byte() {
            255 => "n".repeat(DECLARATION_NAME_BYTES + 1),
            letter => char::from(letter).to_string(),
        }
    }

    fn slot(&mut self) -> types::Slot {
        use types::ElementType::{Bf16, F32, F64, U8, U32, U64};

        types::Slot {
            name: self.name(),
            element: self.one_of(&[F32, F64, Bf16, U8, U32, U64]),
            extent: match self.byte() % 6 {
                0 => types::Extent::PerElement,
                1 => types::Extent::PerRun(self.number() as u32),
                2 => types::Extent::PerRow,
                3 => types::Extent::PerColumn,
                4 => types::Extent::Scalar,
                _ => types::Extent::Explicit(self.many(Self::number)),
            },
            initial: match self.byte() % 3 {
                0 => types::Initial::Zero,
                1 => types::Initial::Constant(f64::from_bits(self.number())),
                _ => types::Initial::Parameter,
            },
        }
    }

    fn accumulator(&mut self) -> types::Accumulator {
        use types::{Combination, Contributor, Scope};

        types::Accumulator {
            name: self.name(),
            contributor: self.one_of(&[Contributor::Optimizer, Contributor::Parameters, Contributor::Gradients]),
            combination: self.one_of(&[
                Combination::Sum,
                Combination::SumOfSquares,
                Combination::AbsoluteMaximum,
                Combination::Maximum,
            ]),
            scope: self.one_of(&[Scope::Row, Scope::Column, Scope::Tensor, Scope::Group, Scope::Model]),
            contributed_in: self.number() as u32,
            read_from: self.number() as u32,
        }
    }

    fn phase(&mut self) -> types::Phase {
        types::Phase {
            name: self.name(),
            purpose: self.one_of(&[types::Purpose::Update, types::Purpose::Update, types::Purpose::Evaluation]),
            reads_gradient: self.byte() & 1 == 0,
        }
    }
}

/// A plan for a tensor, and where it places a slice.
#[doc(hidden)]
pub fn fuzz_plan(bytes: &[u8]) {
    let mut reader = Reader(bytes);
    let shape = reader.many(Reader::number);
    let tensor = TensorDescription { name: "fuzzed".into(), shape, ..TensorDescription::default() };
    let raw = types::TensorPlan {
        granularity: reader.one_of(&[
            types::Granularity::Elements,
            types::Granularity::TouchedRows,
            types::Granularity::Tensor,
        ]),
        work_bytes: reader.number(),
        phases: reader.many(Reader::phase),
        slots: reader.many(Reader::slot),
        accumulators: reader.many(Reader::accumulator),
    };
    let Ok(plan) = Plan::checked(raw, &tensor) else { return };
    assert!(plan.slot_bytes() < u64::MAX && !plan.phases.is_empty(), "a plan that cannot be counted");
    assert!(plan.bytes_per_parameter() >= 0.0);
    assert_eq!(plan.keeps_state_of(&plan), Ok(()));

    // A slice as the server cuts them.
    let all = plan.geometry.elements();
    let unit = plan.slice_unit();
    let start = match unit {
        None => 0,
        Some(unit) => reader.number().min(all) / unit.max(1) * unit,
    };
    let elements = if unit.is_none() { all } else { reader.number().min(all - start) };
    let Ok(elements) = u32::try_from(elements) else { return };
    if elements == 0 {
        return;
    }
    let block = reader.number().clamp(4096, MAX_BLOCK_ELEMENTS) as u32;
    if let Some(scratch) = ScratchRequest::of(&plan, elements, block) {
        let _ = scratch.bytes();
    }
    let Some(layout) = Layout::of(&plan, start, elements) else { return };
    assert_eq!((layout.slots.len(), layout.elements()), (plan.slots.len(), elements as usize));
    let room = layout.bytes;
    let base = (reader.number() as u32).min(u32::MAX - room) / ALIGNMENT as u32 * ALIGNMENT as u32;
    let layout = layout.at(base);
    let views = layout.state().chain(&layout.contributions).chain(&layout.combined);
    let mut places: Vec<Range<usize>> = views.map(View::whole).filter(|place| !place.is_empty()).collect();
    places.sort_by_key(|place| place.start);
    let end = base as usize + room as usize;
    for (place, next) in places.iter().zip(places.iter().skip(1).map(|next| next.start).chain([end])) {
        assert!(
            place.start >= base as usize && place.end <= next,
            "{place:?} overlaps, or leaves the room up to {end}"
        );
        assert!(place.start.is_multiple_of(ALIGNMENT as usize), "{place:?} is misaligned");
    }
}

/// Offers of room for what a server asks: which pass, against a second opinion.
#[doc(hidden)]
pub fn fuzz_offsets(bytes: &[u8]) {
    let mut reader = Reader(bytes);
    let mut places = Reservations::default();
    let mut taken: Vec<Range<u64>> = Vec::new();
    for _ in 0..1 + reader.byte() % 32 {
        let (offset, bytes) = (reader.number() as u32, reader.number() as u32);
        let memory = reader.number().min(1 << 32);
        let place = u64::from(offset)..u64::from(offset) + u64::from(bytes);
        let overlaps = taken.iter().any(|other| other.clone().any_in(&place));
        let good = offset.is_multiple_of(ALIGNMENT as u32) && place.end <= memory && !overlaps;
        assert_eq!(places.claim(offset, bytes, memory as usize).is_ok(), good, "{place:?} of {memory}");
        if good {
            taken.push(place);
            // What is reserved for colours is room, too.
            assert!(
                crate::slice::layout::first_colour(offset).is_none_or(|first| u64::from(first - offset) < COLOUR_SLACK)
            );
        }
    }
}

/// A second way to say that two runs have something in common.
trait AnyIn {
    fn any_in(self, other: &Range<u64>) -> bool;
}

impl AnyIn for Range<u64> {
    fn any_in(self, other: &Range<u64>) -> bool {
        let begins_in = |one: &Range<u64>, other: &Range<u64>| !one.is_empty() && other.contains(&one.start);
        begins_in(&self, other) || begins_in(other, &self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_plan_and_no_offer_makes_the_checks_panic_or_pass_what_is_wrong(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            super::fuzz_plan(&bytes);
            super::fuzz_offsets(&bytes);
        }
    }
}
