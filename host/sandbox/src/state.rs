//! The parts of a slice's state: what a round may change, what must be finite, what belongs to which rows.

use std::ops::Range;

use crate::declarations::{Extent, SlotType};
use crate::house::BoundSlice;
use crate::layout::View;

/// How the rows of a tensor lie in a part of a slice's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowsApart {
    /// A row has as many elements as parameters (or one for each run of them).
    Elements,
    /// A row has one element.
    Rows,
    /// All rows share the elements.
    Shared,
}

/// Some elements of the parameters or of a slot.
#[derive(Debug, Clone)]
pub(crate) struct StatePart {
    view: View,
    pub(crate) element: SlotType,
    /// Position in the plan; `None` for the parameters.
    pub(crate) slot: Option<usize>,
    pub(crate) rows_apart: RowsApart,
    /// Consecutive parameters that share an element.
    pub(crate) parameters_each: usize,
    pub(crate) elements: Range<usize>,
}

impl StatePart {
    /// Where it lies in the memory.
    pub(crate) fn bytes(&self) -> Range<usize> {
        self.view.part(self.elements.clone())
    }
}

/// The parameters and the slots of a slice, each whole.
pub(crate) fn state_parts(slice: &BoundSlice) -> impl Iterator<Item = StatePart> {
    let whole = |view: &View| 0..view.elements();
    let parameters = StatePart {
        view: slice.layout.parameters,
        element: SlotType::F32,
        slot: None,
        rows_apart: RowsApart::Elements,
        parameters_each: 1,
        elements: whole(&slice.layout.parameters),
    };
    let slots = slice.plan.slots.iter().zip(&slice.layout.slots).enumerate().map(move |(index, (slot, view))| {
        let (rows_apart, parameters_each) = match slot.extent {
            Extent::PerElement => (RowsApart::Elements, 1),
            Extent::PerRun(run) => (RowsApart::Elements, run as usize),
            Extent::PerRow => (RowsApart::Rows, 1),
            Extent::PerColumn | Extent::Scalar | Extent::Explicit(_) => (RowsApart::Shared, 1),
        };
        StatePart {
            view: *view,
            element: slot.element,
            slot: Some(index),
            rows_apart,
            parameters_each,
            elements: whole(view),
        }
    });
    std::iter::once(parameters).chain(slots)
}

/// Everything that belongs to these rows alone, which are in ascending order and without repetition.
pub(crate) fn touched<'a>(slice: &BoundSlice, rows: &'a [u32]) -> impl Iterator<Item = StatePart> + use<'a> {
    let columns = slice.plan.geometry.columns as usize;
    let parts: Vec<_> = state_parts(slice).filter(|part| part.rows_apart != RowsApart::Shared).collect();
    // Neighbouring rows are one run.
    rows.chunk_by(|row, next| row + 1 == *next).flat_map(move |run| {
        let rows = run[0] as usize..run[0] as usize + run.len();
        let of_rows = |part: &StatePart| StatePart {
            elements: match part.rows_apart {
                RowsApart::Elements => rows.start * columns..rows.end * columns,
                RowsApart::Rows | RowsApart::Shared => rows.clone(),
            },
            ..part.clone()
        };
        parts.iter().map(of_rows).collect::<Vec<_>>()
    })
}
