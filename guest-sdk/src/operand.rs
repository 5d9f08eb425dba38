//! Slots of any kind, presented as runs of `f32` that a loop over elements can read and write.

use std::borrow::Cow;
use std::ops::Range;

use crate::plan::Plan;
use crate::slot::{Code, ElementType, Extent, Slot};
use crate::statistics::CHUNK_ELEMENTS;
use crate::{bf16, cast, quantise};

/// Consecutive elements of a block.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Their range in the block's views (with touched rows: in the slice's views).
    pub(crate) place: Range<usize>,
    /// Index in the tensor of the first element.
    pub(crate) first: u64,
}

/// The segments of a part: an iterator over its maximal runs within one row.
pub(crate) struct Segments {
    columns: u64,
    next: u64,
    end: u64,
}

/// The elements of a part that belong to one row.
pub(crate) struct Segment {
    pub(crate) row: u64,
    pub(crate) first_column: usize,
    pub(crate) elements: usize,
}

impl Segments {
    pub(crate) fn of(part: &Part, columns: u64) -> Self {
        Self { columns: columns.max(1), next: part.first, end: part.first + part.place.len() as u64 }
    }
}

impl Iterator for Segments {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.next >= self.end {
            return None;
        }
        let row = self.next / self.columns;
        let end = self.end.min((row + 1) * self.columns);
        let segment =
            Segment { row, first_column: (self.next % self.columns) as usize, elements: (end - self.next) as usize };
        self.next = end;
        Some(segment)
    }
}

enum Source<'a> {
    Direct(&'a mut [f32]),
    Bf16(&'a mut [u16]),
    Quantised {
        code: Code,
        codes: &'a mut [u8],
        scales: &'a mut [f32],
    },
    /// Read-only: each element sees the value of its run, row or column, or the only value.
    Run {
        values: Cow<'a, [f32]>,
        elements: usize,
    },
    Row {
        values: Cow<'a, [f32]>,
        first_row: u64,
    },
    Column {
        values: Cow<'a, [f32]>,
    },
    Scalar(f32),
}

/// A slot as a loop over elements sees it.
pub(crate) struct Operand<'a> {
    source: Source<'a>,
    columns: u64,
    /// Decoded values of the current part.
    scratch: Vec<f32>,
}

impl<'a> Operand<'a> {
    /// `views` are the views of the block; this takes the ones that the slot needs. `first_row` is the row of the first
    /// element of per-row views.
    pub(crate) fn new(
        plan: &Plan,
        slot: &Slot,
        views: &mut [Option<&'a mut [u8]>],
        columns: u64,
        first_row: u64,
    ) -> Result<Self, String> {
        let (position, planned) = plan.find(slot)?;
        let mut take =
            |position: usize| views[position].take().ok_or_else(|| format!("slot {} is named twice", slot.name));
        let source = match (planned.extent, planned.element, planned.code) {
            (Extent::PerElement, ElementType::F32, None) => Source::Direct(cast::elements_mut(take(position)?)),
            (Extent::PerElement, ElementType::Bf16, None) => Source::Bf16(cast::elements_mut(take(position)?)),
            (Extent::PerElement, _, Some(code)) => {
                let codes = take(position)?;
                Source::Quantised { code, codes, scales: cast::elements_mut(take(position + 1)?) }
            }
            (Extent::PerElement | Extent::Vector(_) | Extent::Matrix(..), element, _) => {
                return Err(format!(
                    "slot {} holds {element:?} {:?}: it is reached through the block's slots",
                    slot.name, planned.extent
                ));
            }
            (extent, element, _) => {
                let view: &'a [u8] = take(position)?;
                let values: Cow<'a, [f32]> = match element {
                    ElementType::F32 => Cow::Borrowed(cast::elements(view)),
                    ElementType::F64 => cast::elements(view).iter().map(|value: &f64| *value as f32).collect(),
                    ElementType::Bf16 => cast::elements(view).iter().map(|bits| bf16::to_f32(*bits)).collect(),
                    _ => return Err(format!("slot {} holds {element:?}, not numbers", slot.name)),
                };
                match extent {
                    Extent::PerRun(elements) => Source::Run { values, elements: elements as usize },
                    Extent::PerRow => Source::Row { values, first_row },
                    Extent::PerColumn => Source::Column { values },
                    _ => Source::Scalar(*values.first().ok_or("a scalar slot is empty")?),
                }
            }
        };
        Ok(Self { source, columns, scratch: Vec::new() })
    }

    /// Whether the slot needs no scratch buffer, so that a part may have any length.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.source, Source::Direct(_))
    }

    /// The part's values as `f32`.
    #[inline]
    pub(crate) fn open(&mut self, part: &Part) -> &mut [f32] {
        let place = part.place.clone();
        let scratch = &mut self.scratch;
        if !matches!(self.source, Source::Direct(_)) {
            scratch.resize(place.len(), 0.0);
        }
        match &mut self.source {
            Source::Direct(values) => return &mut values[place],
            Source::Bf16(values) => {
                for (number, bits) in scratch.iter_mut().zip(&values[place]) {
                    *number = bf16::to_f32(*bits);
                }
            }
            Source::Quantised { code, codes, scales } => {
                quantise::decode(*code, &codes[place.clone()], &scales[runs(&place, quantise::RUN)], scratch);
            }
            Source::Run { values, elements } => {
                for (numbers, value) in scratch.chunks_mut(*elements).zip(&values[runs(&place, *elements)]) {
                    numbers.fill(*value);
                }
            }
            Source::Row { values, first_row } => {
                let mut rest = scratch.as_mut_slice();
                for segment in Segments::of(part, self.columns) {
                    let (numbers, later) = rest.split_at_mut(segment.elements);
                    numbers.fill(values[(segment.row - *first_row) as usize]);
                    rest = later;
                }
            }
            Source::Column { values } => {
                let mut rest = scratch.as_mut_slice();
                for segment in Segments::of(part, self.columns) {
                    let (numbers, later) = rest.split_at_mut(segment.elements);
                    numbers.copy_from_slice(&values[segment.first_column..][..segment.elements]);
                    rest = later;
                }
            }
            Source::Scalar(value) => scratch.fill(*value),
        }
        scratch
    }

    /// Stores what was written to the part's values.
    #[inline]
    pub(crate) fn close(&mut self, part: &Part) {
        let place = part.place.clone();
        match &mut self.source {
            Source::Bf16(values) => {
                for (bits, number) in values[place].iter_mut().zip(&self.scratch) {
                    *bits = bf16::from_f32(*number);
                }
            }
            Source::Quantised { code, codes, scales } => {
                let scales = &mut scales[runs(&place, quantise::RUN)];
                quantise::encode(*code, &self.scratch, &mut codes[place], scales);
            }
            Source::Direct(_) | Source::Run { .. } | Source::Row { .. } | Source::Column { .. } | Source::Scalar(_) => {
            }
        }
    }
}

/// The runs that a part covers. A part starts at the start of a run, because parts with such operands are chunks.
fn runs(place: &Range<usize>, elements: usize) -> Range<usize> {
    debug_assert!(place.start.is_multiple_of(CHUNK_ELEMENTS));
    place.start / elements..place.end.div_ceil(elements)
}
