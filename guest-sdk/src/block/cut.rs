//! Cuts blocks from slices.

use std::ops::Range;

use super::Block;
use crate::Tensor;
use crate::plan::{Plan, contribution_range, slot_range};
use crate::slots::{Slots, Stage};
use crate::statistics::CHUNK_ELEMENTS;

/// The views of a slice as the server laid it out, from which blocks are cut.
pub(crate) struct SliceViews<'a> {
    pub(crate) tensor: &'a Tensor,
    pub(crate) plan: &'a Plan,
    /// Index in the tensor of the slice's first element.
    pub(crate) start: u64,
    pub(crate) parameters: &'a mut [f32],
    /// One view for each stored slot, in the order of the plan, with all elements that belong to the slice.
    pub(crate) slots: Vec<&'a mut [u8]>,
    /// One view for each accumulator, in the order of the plan.
    pub(crate) contributions: Vec<&'a mut [f64]>,
}

/// What a call of `step` visits.
pub(crate) struct Visit<'a> {
    /// Range of elements within the slice.
    pub(crate) elements: Range<usize>,
    pub(crate) gradient: &'a [f32],
    pub(crate) evaluation: &'a mut [f32],
    /// With touched rows, the listed rows, counted from the first row of the slice.
    pub(crate) rows: Option<&'a [u32]>,
}

impl<'a> Block<'a> {
    /// Cuts a block from its slice.
    pub(crate) fn cut(slice: SliceViews<'a>, phase: usize, visit: Visit<'a>) -> Result<Self, String> {
        let SliceViews { tensor, plan, start: slice_start, parameters, mut slots, mut contributions } = slice;
        let slice_elements = slice_start..slice_start + parameters.len() as u64;
        let columns = tensor.columns() as usize;
        let elements = match visit.rows {
            None if !visit.elements.start.is_multiple_of(CHUNK_ELEMENTS) => {
                return Err(format!("the block starts at {}, which is within a chunk", visit.elements.start));
            }
            None => visit.elements.clone(),
            Some(rows) => {
                if Some(visit.gradient.len()) != rows.len().checked_mul(columns) {
                    return Err(format!("{} rows do not have {} elements", rows.len(), visit.gradient.len()));
                }
                let row_end = |row: &u32| (u64::from(*row) + 1).saturating_mul(columns as u64);
                if rows.iter().any(|row| row_end(row) > parameters.len() as u64) {
                    return Err("a listed row leaves the slice".into());
                }
                0..parameters.len()
            }
        };
        if elements.end > parameters.len() {
            return Err("the block leaves the slice".into());
        }
        let block = slice_start + elements.start as u64..slice_start + elements.end as u64;
        for (slot, view) in plan.stored_slots().zip(&mut slots) {
            let all = slot_range(slot.extent, tensor, slice_elements.clone());
            let part = slot_range(slot.extent, tensor, block.clone());
            let size = slot.element.bytes();
            *view = cut(view, all.start, part, size)
                .ok_or_else(|| format!("the view of slot {} is too short", slot.name))?;
        }
        for (accumulator, view) in plan.accumulators.iter().zip(&mut contributions) {
            if !accumulator.is_contributed_in(phase) {
                *view = &mut [];
                continue;
            }
            let all = contribution_range(accumulator.scope, tensor, slice_elements.clone());
            let part = contribution_range(accumulator.scope, tensor, block.clone());
            *view = cut(view, all.start, part, 1)
                .ok_or_else(|| format!("the view of accumulator {} is too short", accumulator.name))?;
        }
        Ok(Self {
            parameters: &mut parameters[elements],
            gradient: visit.gradient,
            evaluation: visit.evaluation,
            slots: Slots { plan, stage: Stage::Step, views: slots },
            tensor,
            phase,
            start: block.start,
            contributions,
            rows: visit.rows,
        })
    }
}

/// Returns the elements `part` of a view whose first element has index `first`; an element has `size` items. `None` if
/// the view does not contain them.
fn cut<'a, T>(view: &mut &'a mut [T], first: u64, part: Range<u64>, size: usize) -> Option<&'a mut [T]> {
    let start = usize::try_from(part.start.checked_sub(first)?).ok()?.checked_mul(size)?;
    let length = usize::try_from(part.end - part.start).ok()?.checked_mul(size)?;
    std::mem::take(view).get_mut(start..)?.get_mut(..length)
}
