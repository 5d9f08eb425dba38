//! Where a slice's parameters, slots and accumulators lie within the run of memory that was reserved for them.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::contract::bindings::types;
use crate::contract::declarations::{Contributor, Extent, Scope, Slot};
use crate::contract::plan::Plan;
use crate::error::{NotInMemory, SandboxError};
use crate::instance::memory::GuestMemory;
use crate::limits::CHUNK_ELEMENTS;

/// Alignment of every view, in bytes, as the contract says.
pub(crate) const ALIGNMENT: u64 = 64;

/// How far apart long views lie within a page of [`COLOUR_PERIOD`] bytes. They are stepped through at the same pace; were
/// they a multiple of a page apart, as powers of two of elements put them, they would compete for the same lines of the
/// first-level cache, and each load would seem to depend on a store before it (processors compare the lowest 12 bits of
/// addresses). On Zen 4 AdamW's loop over 16 Mi parameters takes 1.19 ns a parameter without this and 0.65 with it. Five
/// lines: what is prefetched ahead in one view stays clear of the next.
const COLOUR: u64 = 5 * ALIGNMENT;

/// What of an address tells where in the first-level cache it goes.
const COLOUR_PERIOD: u64 = 4096;

/// Shorter views fit the first-level cache anyway.
const COLOURED_BYTES: u64 = 16 << 10;

/// The first offset from `end` on where the view of this number may begin.
fn coloured(end: u64, number: u64) -> Option<u64> {
    let colour = number * COLOUR % COLOUR_PERIOD;
    end.saturating_sub(colour).checked_next_multiple_of(COLOUR_PERIOD)?.checked_add(colour)
}

/// The offset, at or behind `offset`, from which colours count. Needs up to [`COLOUR_SLACK`] bytes.
pub(crate) fn first_colour(offset: u32) -> Option<u32> {
    offset.checked_next_multiple_of(COLOUR_PERIOD as u32)
}

/// What [`first_colour`] may skip.
pub(crate) const COLOUR_SLACK: u64 = COLOUR_PERIOD;

/// A run of elements of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    offset: u32,
    elements: u32,
    element_bytes: u32,
}

impl View {
    pub(crate) fn elements(&self) -> usize {
        self.elements as usize
    }

    /// Bytes of a part of it.
    pub(crate) fn part(&self, elements: Range<usize>) -> Range<usize> {
        let (start, width) = (self.offset as usize, self.element_bytes as usize);
        start + elements.start * width..start + elements.end * width
    }

    /// Its bytes.
    pub(crate) fn whole(&self) -> Range<usize> {
        self.part(0..self.elements())
    }

    fn raw(&self) -> types::View {
        types::View { offset: self.offset, elements: self.elements }
    }

    /// Reads it as `f64`s.
    pub(crate) fn read_numbers(&self, memory: &GuestMemory) -> Result<Vec<f64>, NotInMemory> {
        let (numbers, _) = memory.bytes(self.whole())?.as_chunks::<8>();
        Ok(numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    /// Fills it with `f64`s, unless the numbers are not as many.
    pub(crate) fn write_numbers(&self, memory: &mut GuestMemory, numbers: &[f64]) -> Result<(), NotInMemory> {
        let (places, _) = memory.bytes_mut(self.whole())?.as_chunks_mut::<8>();
        if places.len() != numbers.len() {
            return Err(NotInMemory);
        }
        places.iter_mut().zip(numbers).for_each(|(place, number)| *place = number.to_le_bytes());
        Ok(())
    }
}

/// A slice's views in the linear memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) parameters: View,
    /// One for each slot of the plan.
    pub(crate) slots: Vec<View>,
    /// One for each accumulator of the plan: what the optimizer contributes.
    pub(crate) contributions: Vec<View>,
    /// One for each accumulator of the plan: what all have contributed.
    pub(crate) combined: Vec<View>,
    /// The rows of the tensor that the slice touches.
    pub(crate) rows: Range<u64>,
    /// Bytes that hold all views.
    pub(crate) bytes: u32,
    /// Whether views lie apart as [`COLOUR`] says, counted from a multiple of [`COLOUR_PERIOD`].
    is_coloured: bool,
}

impl Layout {
    /// Lays the views of a slice out from offset 0 on. `None` where a 32-bit memory cannot hold them.
    pub(crate) fn of(plan: &Plan, start: u64, elements: u32) -> Option<Self> {
        let mut end = 0_u64;
        // The gradient has the first colour.
        let mut colours = 1..;
        let mut is_coloured = false;
        let mut place = |elements: u64, element_bytes: u64| {
            let bytes = elements.checked_mul(element_bytes)?;
            is_coloured |= bytes >= COLOURED_BYTES;
            let offset = if bytes >= COLOURED_BYTES { coloured(end, colours.next()?)? } else { end };
            end = offset.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT)?;
            Some(View {
                offset: u32::try_from(offset).ok()?,
                elements: u32::try_from(elements).ok()?,
                element_bytes: element_bytes as u32,
            })
        };
        let rows = plan.geometry.rows_of(start..start + u64::from(elements));
        let parameters = place(elements.into(), size_of::<f32>() as u64)?;
        let slots = plan
            .slots
            .iter()
            .map(|slot| place(plan.slot_elements(slot, start, elements.into())?, slot.element.bytes()))
            .collect::<Option<Vec<_>>>()?;
        let (mut contributions, mut combined) = (Vec::new(), Vec::new());
        for accumulator in &plan.accumulators {
            let of_optimizer = matches!(accumulator.contributor, Contributor::Optimizer { .. });
            let (gives, takes) = match accumulator.scope {
                Scope::Row => (rows.end - rows.start, rows.end - rows.start),
                Scope::Column => (plan.geometry.columns, plan.geometry.columns),
                Scope::Tensor | Scope::Group | Scope::Model => (elements.div_ceil(CHUNK_ELEMENTS).into(), 1),
            };
            contributions.push(place(if of_optimizer { gives } else { 0 }, size_of::<f64>() as u64)?);
            combined.push(place(takes, size_of::<f64>() as u64)?);
        }
        let bytes = u32::try_from(end + if is_coloured { COLOUR_SLACK } else { 0 }).ok()?;
        Some(Self { parameters, slots, contributions, combined, rows, bytes, is_coloured })
    }

    /// The same from `base` on, where [`Self::bytes`] bytes were reserved.
    pub(crate) fn at(mut self, base: u32) -> Self {
        let base = if self.is_coloured { first_colour(base).unwrap_or(base) } else { base };
        let lists = [&mut self.slots, &mut self.contributions, &mut self.combined];
        let views = lists.into_iter().flatten().chain([&mut self.parameters]);
        // What was reserved lies within a 32-bit memory, so that no sum overflows.
        views.for_each(|view| view.offset += base);
        self
    }

    /// Number of parameters.
    pub(crate) fn elements(&self) -> usize {
        self.parameters.elements()
    }

    /// The parameters and the slots: what a slice is between rounds.
    pub(crate) fn state(&self) -> impl Iterator<Item = &View> {
        std::iter::once(&self.parameters).chain(&self.slots)
    }

    /// Elements of what the slice has for its rows and columns: the slots that blocks do not divide, and what all have
    /// contributed to accumulators.
    pub(crate) fn shared_elements(&self, plan: &Plan) -> u64 {
        let shared = |slot: &&Slot| !matches!(slot.extent, Extent::PerElement | Extent::PerRun(_));
        let slots = plan.slots.iter().zip(&self.slots).filter(|(slot, _)| shared(slot)).map(|(_, view)| view);
        slots.chain(&self.combined).map(|view| view.elements() as u64).sum()
    }

    /// The slice as `bind` wants it.
    pub(crate) fn raw(&self, tensor: types::Tensor, start: u64) -> types::Slice {
        let all = |views: &[View]| views.iter().map(View::raw).collect();
        types::Slice {
            tensor,
            start,
            parameters: self.parameters.raw(),
            slots: all(&self.slots),
            first_row: self.rows.start,
            contributions: all(&self.contributions),
            combined: all(&self.combined),
        }
    }
}

/// The places an instance has given, each of which must be in its memory, aligned, and nobody else's: where each ends, by
/// where it starts, so that one more costs little however many there are.
#[derive(Debug, Default)]
pub(crate) struct Reservations(BTreeMap<u64, u64>);

impl Reservations {
    /// Checks what `reserve` returned and remembers it.
    pub(crate) fn claim(&mut self, offset: u32, bytes: u32, memory_bytes: usize) -> Result<(), SandboxError> {
        let refuse = |reason| Err(SandboxError::Offset { offset, bytes, reason });
        let place = u64::from(offset)..u64::from(offset) + u64::from(bytes);
        if !place.start.is_multiple_of(ALIGNMENT) {
            return refuse("it is not aligned to 64 bytes");
        }
        if place.end > memory_bytes as u64 {
            return refuse("it lies outside the memory");
        }
        if place.is_empty() {
            return Ok(());
        }
        // None of those overlap, so that the last one that starts before this one's end also ends last.
        if self.0.range(..place.end).next_back().is_some_and(|(_, end)| *end > place.start) {
            return refuse("it overlaps what was given before");
        }
        self.0.insert(place.start, place.end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::declarations::{Accumulator, Combination, Granularity, Initial, SlotType};
    use crate::contract::geometry::Geometry;
    use crate::contract::plan::Phase;

    fn plan(elements: u64) -> Plan {
        let slot = |name: &str, element, extent| Slot { name: name.into(), element, extent, initial: Initial::Zero };
        Plan {
            slots: vec![
                slot("codes", SlotType::U8, Extent::PerElement),
                slot("scales", SlotType::F32, Extent::PerRun(256)),
                slot("rows", SlotType::F64, Extent::PerRow),
            ],
            accumulators: vec![Accumulator {
                name: "norm".into(),
                contributor: Contributor::Optimizer { phase: 0 },
                combination: Combination::Sum,
                scope: Scope::Tensor,
                read_from: 1,
            }],
            phases: vec![Phase { name: "phase".into(), reads_gradient: true }; 2],
            evaluation: None,
            granularity: Granularity::Elements,
            work_bytes: 0,
            geometry: Geometry { rows: elements / 1000, columns: 1000 },
        }
    }

    #[test]
    fn views_are_aligned_apart_and_as_long_as_their_extent() {
        let layout = Layout::of(&plan(100_000), 4096, 8192).unwrap().at(640);
        // The next multiple of a page, and the first colour behind the gradient's.
        assert_eq!(layout.parameters.whole(), 4416..4416 + 32768);
        let slots: Vec<_> = layout.slots.iter().map(View::whole).collect();
        assert_eq!(slots, [37184..45376, 45376..45504, 45504..45576]);
        assert_eq!(layout.rows, 4..13);
        assert_eq!(layout.contributions[0].whole(), 45632..45648);
        assert_eq!(layout.combined[0].whole(), 45696..45704);
        assert_eq!(640 + layout.bytes, 45760 + 640, "what a page's rest may take is reserved");
    }

    #[test]
    fn long_views_lie_apart_within_a_page() {
        let slot = |name: &str, element| Slot {
            name: name.into(),
            element,
            extent: Extent::PerElement,
            initial: Initial::Zero,
        };
        let slots = vec![slot("mean", SlotType::F32), slot("codes", SlotType::U8), slot("variance", SlotType::F64)];
        let plan = Plan { slots, accumulators: Vec::new(), ..plan(1 << 20) };
        let layout = Layout::of(&plan, 0, 1 << 18).unwrap().at(64);
        let colours: Vec<_> = layout.state().map(|view| view.whole().start % 4096 / 64).collect();
        assert_eq!(colours, [5, 10, 15, 20]);
        let ends = layout.state().map(|view| view.whole().end).take(3);
        assert!(ends.zip(layout.state().skip(1)).all(|(end, next)| (end..end + 4096).contains(&next.whole().start)));
    }

    #[test]
    fn what_a_32_bit_memory_cannot_hold_is_none() {
        assert_eq!(Layout::of(&plan(1 << 40), 0, u32::MAX), None);
        assert_eq!(Layout::of(&plan(1 << 40), 0, 1 << 30), None);
        assert!(Layout::of(&plan(1 << 40), 0, 1 << 29).is_some());
    }

    #[test]
    fn hostile_offsets_are_refused() {
        let mut places = Reservations::default();
        assert_eq!(places.claim(64, 64, 4096), Ok(()));
        for (offset, bytes) in [(65, 64), (4096, 64), (u32::MAX - 63, 4096), (64, 1), (0, 65), (0, 4096), (4032, 65)] {
            assert!(places.claim(offset, bytes, 4096).is_err(), "{offset} {bytes}");
        }
        assert_eq!(places.claim(128, 3968, 4096), Ok(()));
    }
}
