//! One phase over one tensor, cut as a server would cut it.

use std::ops::Range;

use super::Prepared;
use super::state::{State, Storage};
use crate::accumulator::Scope;
use crate::block::{Block, SliceViews, Visit};
use crate::plan::{Granularity, Plan, combined_range, contribution_range, slot_range};
use crate::slots::{Combined, Shared, Slots, Stage};
use crate::statistics::CHUNK_ELEMENTS;
use crate::{Context, Optimizer, Tensor};

/// Sizes of slices and blocks, in elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cuts {
    slice: usize,
    block: usize,
}

impl Default for Cuts {
    fn default() -> Self {
        Self { slice: usize::MAX, block: usize::MAX }
    }
}

impl Cuts {
    pub(super) fn new(slice: usize, block: usize) -> Self {
        for elements in [slice, block] {
            assert!(elements > 0 && elements.is_multiple_of(CHUNK_ELEMENTS), "tensors are cut at multiples of 4096");
        }
        Self { slice, block }
    }
}

/// A phase that is about to run.
pub(super) struct Pass<'a, O: Optimizer> {
    pub(super) optimizer: &'a O,
    pub(super) tensor: &'a Tensor,
    pub(super) plan: &'a Plan,
    pub(super) phase: usize,
    pub(super) context: &'a Context,
    pub(super) cuts: Cuts,
}

impl<O: Optimizer> Pass<'_, O> {
    /// Runs a phase of purpose update.
    pub(super) fn update(
        &mut self,
        state: &mut State,
        combined: &mut [Vec<f64>],
        gradient: &Prepared<'_>,
    ) -> Result<(), String> {
        if self.plan.reads_gradient(self.phase) {
            return self.run(state, combined, &gradient.values, &mut [], gradient.rows.as_deref());
        }
        // Undefined in the sandbox; here NaN, so that a phase that reads it fails visibly.
        let nothing = vec![f32::NAN; gradient.values.len()];
        self.run(state, combined, &nothing, &mut [], gradient.rows.as_deref())
    }

    /// Runs the phase of purpose evaluation.
    pub(super) fn evaluate(
        &mut self,
        state: &mut State,
        combined: &mut [Vec<f64>],
        weights: &mut [f32],
    ) -> Result<(), String> {
        self.run(state, combined, &[], weights, None)
    }

    fn run(
        &mut self,
        state: &mut State,
        combined: &mut [Vec<f64>],
        gradient: &[f32],
        evaluation: &mut [f32],
        rows: Option<&[u32]>,
    ) -> Result<(), String> {
        let slices = self.slices(state.parameters.len());
        let mut copies = Copies::before(self.plan, self.tensor, &state.slots, slices.len());
        for slice in slices {
            let mut own = copies.of_slice(slice.clone());
            let mut contributions = self.contributions_before(combined, slice.clone());
            let round = {
                let mut shared = Shared {
                    combined: Combined {
                        plan: self.plan,
                        phase: self.phase,
                        views: self.combined_of(combined, slice.clone()),
                    },
                    slots: Slots {
                        plan: self.plan,
                        stage: Stage::Begin,
                        views: views(self.plan, self.tensor, &mut state.slots, &mut own, slice.clone()),
                    },
                    rows: self.tensor.rows_of(slice.clone()),
                };
                self.optimizer.begin(self.phase, self.tensor, self.context, &mut shared)?
            };
            for call in self.calls(slice.clone(), rows) {
                let slice_views = SliceViews {
                    tensor: self.tensor,
                    plan: self.plan,
                    start: slice.start,
                    parameters: &mut state.parameters[slice.start as usize..slice.end as usize],
                    slots: views(self.plan, self.tensor, &mut state.slots, &mut own, slice.clone()),
                    contributions: contributions.iter_mut().map(Vec::as_mut_slice).collect(),
                };
                let visit = Visit {
                    elements: call.elements,
                    gradient: gradient.get(call.gradient).unwrap_or_default(),
                    evaluation: evaluation.get_mut(call.evaluation).unwrap_or_default(),
                    rows: call.rows.as_deref(),
                };
                let mut block = Block::cut(slice_views, self.phase, visit)?;
                self.optimizer.step(&round, self.phase, &mut block)?;
            }
            copies.keep(&mut state.slots, &own, slice.clone())?;
            self.combine(combined, &contributions, slice);
        }
        Ok(())
    }

    fn slices(&self, elements: usize) -> Vec<Range<u64>> {
        let columns = (self.tensor.columns() as usize).max(1);
        let size = match self.plan.granularity {
            Granularity::Tensor => elements,
            Granularity::Elements => self.cuts.slice,
            Granularity::TouchedRows => {
                // A multiple of the least number of rows that ends at a chunk.
                let rows = (1..=CHUNK_ELEMENTS).find(|rows| (rows * columns).is_multiple_of(CHUNK_ELEMENTS));
                let least = rows.unwrap_or(CHUNK_ELEMENTS) * columns;
                self.cuts.slice.div_ceil(least).saturating_mul(least)
            }
        };
        pieces(0..elements, size).map(|slice| slice.start as u64..slice.end as u64).collect()
    }

    /// The calls of `step` that visit a slice.
    fn calls(&self, slice: Range<u64>, rows: Option<&[u32]>) -> Vec<Call> {
        let (start, elements) = (slice.start as usize, (slice.end - slice.start) as usize);
        let size = if self.plan.granularity == Granularity::Tensor { elements } else { self.cuts.block };
        let Some(rows) = rows else {
            let call = |block: Range<usize>| {
                let place = start + block.start..start + block.end;
                Call { elements: block, gradient: place.clone(), evaluation: place, rows: None }
            };
            return pieces(0..elements, size).map(call).collect();
        };
        let columns = (self.tensor.columns() as usize).max(1);
        let (first, end) = ((start / columns) as u32, (start + elements).div_ceil(columns) as u32);
        let listed = rows.partition_point(|row| *row < first)..rows.partition_point(|row| *row < end);
        let call = |listed: Range<usize>| Call {
            elements: 0..0,
            gradient: listed.start * columns..listed.end * columns,
            evaluation: 0..0,
            rows: Some(rows[listed].iter().map(|row| row - first).collect()),
        };
        pieces(listed, (size / columns).max(1)).map(call).collect()
    }

    /// The initial contributions: for rows and columns, the values that preceding slices contributed.
    fn contributions_before(&self, combined: &[Vec<f64>], slice: Range<u64>) -> Vec<Vec<f64>> {
        let before = self.plan.accumulators.iter().zip(combined).map(|(accumulator, combined)| {
            if !accumulator.is_contributed_in(self.phase) {
                return Vec::new();
            }
            let range = contribution_range(accumulator.scope, self.tensor, slice.clone());
            match accumulator.scope {
                Scope::Row | Scope::Column => combined[range.start as usize..range.end as usize].to_vec(),
                _ => vec![accumulator.combination.nothing(); (range.end - range.start) as usize],
            }
        });
        before.collect()
    }

    fn combined_of<'c>(&self, combined: &'c [Vec<f64>], slice: Range<u64>) -> Vec<&'c [f64]> {
        let views = self.plan.accumulators.iter().zip(combined).map(|(accumulator, combined)| {
            let range = combined_range(accumulator.scope, self.tensor, slice.clone());
            &combined[range.start as usize..range.end as usize]
        });
        views.collect()
    }

    fn combine(&self, combined: &mut [Vec<f64>], contributions: &[Vec<f64>], slice: Range<u64>) {
        for ((accumulator, combined), contributions) in self.plan.accumulators.iter().zip(combined).zip(contributions) {
            if !accumulator.is_contributed_in(self.phase) {
                continue;
            }
            match accumulator.scope {
                Scope::Row | Scope::Column => {
                    let range = contribution_range(accumulator.scope, self.tensor, slice.clone());
                    combined[range.start as usize..range.end as usize].copy_from_slice(contributions);
                }
                _ => {
                    let join = |so_far, number: &f64| accumulator.combination.join(so_far, *number);
                    combined[0] = contributions.iter().fold(combined[0], join);
                }
            }
        }
    }
}

/// What one call of `step` visits.
struct Call {
    /// Range within the slice.
    elements: Range<usize>,
    /// Range within the gradient of the whole tensor.
    gradient: Range<usize>,
    /// Range within the evaluation weights of the whole tensor.
    evaluation: Range<usize>,
    /// Rows, counted from the first row of the slice.
    rows: Option<Vec<u32>>,
}

/// Consecutive ranges of at most `size` elements that cover `all`.
fn pieces(all: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    let size = size.clamp(1, all.len().max(1));
    all.step_by(size).map(move |start| start..end.min(start + size))
}

/// Each slice's copies of per-row, per-column and scalar slots, if there are several slices. A server keeps such copies
/// in different instances, and they must end up equal.
struct Copies<'a> {
    plan: &'a Plan,
    tensor: &'a Tensor,
    /// The slots before the phase; `None` for a single slice, which works on the slots themselves.
    before: Option<Vec<Storage>>,
    /// How many elements of each slot the slices so far have written.
    written: Vec<u64>,
}

impl<'a> Copies<'a> {
    fn before(plan: &'a Plan, tensor: &'a Tensor, slots: &[Storage], slices: usize) -> Self {
        let stored = plan.stored_slots().zip(slots);
        let shared = |(slot, storage): (crate::slot::StoredSlot, &Storage)| {
            if slot.extent.is_shared() { storage.clone() } else { Storage::default() }
        };
        Self { plan, tensor, before: (slices > 1).then(|| stored.map(shared).collect()), written: vec![0; slots.len()] }
    }

    fn of_slice(&self, slice: Range<u64>) -> Option<Vec<Storage>> {
        let before = self.before.as_ref()?;
        let copies = self.plan.stored_slots().zip(before).map(|(slot, storage)| {
            if !slot.extent.is_shared() {
                return Storage::default();
            }
            Storage::of_bytes(&storage.bytes()[bytes(&slot, self.tensor, slice.clone())])
        });
        Some(copies.collect())
    }

    /// Stores a slice's copies, which must agree with the copies of the preceding slices.
    fn keep(&mut self, slots: &mut [Storage], own: &Option<Vec<Storage>>, slice: Range<u64>) -> Result<(), String> {
        let Some(own) = own else { return Ok(()) };
        for (index, slot) in self.plan.stored_slots().enumerate().filter(|(_, slot)| slot.extent.is_shared()) {
            let range = slot_range(slot.extent, self.tensor, slice.clone());
            let agreed = (self.written[index].saturating_sub(range.start)) as usize * slot.element.bytes();
            let target = &mut slots[index].bytes_mut()[bytes(&slot, self.tensor, slice.clone())];
            let agreed = agreed.min(target.len());
            if target[..agreed] != own[index].bytes()[..agreed] {
                return Err(format!(
                    "slices disagree on slot {}: it was computed from values that only one slice has",
                    slot.name
                ));
            }
            target.copy_from_slice(own[index].bytes());
            self.written[index] = range.end;
        }
        Ok(())
    }
}

fn bytes(slot: &crate::slot::StoredSlot, tensor: &Tensor, slice: Range<u64>) -> Range<usize> {
    let range = slot_range(slot.extent, tensor, slice);
    range.start as usize * slot.element.bytes()..range.end as usize * slot.element.bytes()
}

/// The views of all slots of a slice, from the slots themselves or from the slice's copies.
fn views<'v>(
    plan: &Plan,
    tensor: &Tensor,
    slots: &'v mut [Storage],
    own: &'v mut Option<Vec<Storage>>,
    slice: Range<u64>,
) -> Vec<&'v mut [u8]> {
    let mut own = own.as_mut().map(|own| own.iter_mut());
    let views = plan.stored_slots().zip(slots).map(|(slot, storage)| {
        let own = own.as_mut().and_then(Iterator::next).filter(|_| slot.extent.is_shared());
        match own {
            Some(copy) => copy.bytes_mut(),
            None => &mut storage.bytes_mut()[bytes(&slot, tensor, slice.clone())],
        }
    });
    views.collect()
}
