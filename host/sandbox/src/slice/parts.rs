//! The parts of a slice's state: what a round may change, what must be finite, what belongs to which rows.

use std::ops::Range;

use crate::contract::declarations::{Extent, Granularity, SlotType};
use crate::contract::plan::Plan;
use crate::limits::CHUNK_ELEMENTS;
use crate::slice::layout::{Layout, View};

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
    /// Elements that belong to the same chunk of parameters or, where rows are told apart, to the same row; `None` where
    /// the part is one whole.
    pub(crate) unit: Option<usize>,
    pub(crate) elements: Range<usize>,
}

impl StatePart {
    /// Position among the state's parts: parameters, then slots.
    pub(crate) fn number(&self) -> usize {
        self.slot.map_or(0, |slot| slot + 1)
    }

    /// The units that its elements are in.
    pub(crate) fn units(&self) -> Range<usize> {
        match self.unit {
            Some(unit) => self.elements.start / unit..self.elements.end.div_ceil(unit),
            None => 0..1,
        }
    }

    /// These elements of it alone.
    pub(crate) fn only(self, elements: Range<usize>) -> Self {
        Self { elements, ..self }
    }

    /// The part of it that lies in these units. All of it where it is one whole.
    pub(crate) fn within(mut self, units: Range<usize>) -> Self {
        if let Some(unit) = self.unit {
            let end = self.view.elements();
            self.elements = (units.start * unit).min(end)..(units.end * unit).min(end);
        }
        self
    }

    /// Where it lies in the memory.
    pub(crate) fn bytes(&self) -> Range<usize> {
        self.view.part(self.elements.clone())
    }
}

/// Parameters of a unit: what has a seal of its own. A row where rows are told apart, otherwise a chunk.
pub(crate) fn unit_parameters(plan: &Plan) -> usize {
    match plan.granularity {
        Granularity::TouchedRows => (plan.geometry.columns as usize).max(1),
        Granularity::Elements | Granularity::Tensor => CHUNK_ELEMENTS as usize,
    }
}

/// The parameters and the slots of a slice, each whole.
pub(crate) fn parts_of<'a>(plan: &'a Plan, layout: &'a Layout) -> impl Iterator<Item = StatePart> + use<'a> {
    let whole = |view: &View| 0..view.elements();
    let chunk = unit_parameters(plan);
    let of_rows = plan.granularity == Granularity::TouchedRows;
    let parameters = StatePart {
        view: layout.parameters,
        element: SlotType::F32,
        slot: None,
        rows_apart: RowsApart::Elements,
        parameters_each: 1,
        unit: Some(chunk),
        elements: whole(&layout.parameters),
    };
    let slots = plan.slots.iter().zip(&layout.slots).enumerate().map(move |(index, (slot, view))| {
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
            unit: match rows_apart {
                RowsApart::Elements => Some((chunk / parameters_each).max(1)),
                RowsApart::Rows if of_rows => Some(1),
                RowsApart::Rows | RowsApart::Shared => None,
            },
            elements: whole(view),
        }
    });
    std::iter::once(parameters).chain(slots)
}

/// Everything that belongs to these rows alone, which are in ascending order and without repetition.
pub(crate) fn touched<'a>(plan: &Plan, layout: &Layout, rows: &'a [u32]) -> impl Iterator<Item = StatePart> + use<'a> {
    let columns = plan.geometry.columns as usize;
    let parts: Vec<_> = parts_of(plan, layout).filter(|part| part.rows_apart != RowsApart::Shared).collect();
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
