//! The rows that a round touches: those for which any worker has a gradient.
//!
//! A row that a worker has no gradient for counts as zeros from it, so that the result is bit for bit that of the same
//! gradients sent whole. The work is in proportion to the rows that are there.

use std::ops::Range;

use tokio::sync::OwnedSemaphorePermit;

use crate::tensor::{Gradient, Rows};

/// The union of all workers' rows, in ascending order, and what each worker has of them.
///
/// Takes no more than the gradients it is made of and 8 bytes for each row: no table of rows and workers, which for many
/// workers and short rows would be many times the tensor.
pub(crate) struct MergedRows {
    columns: usize,
    touched: Touched,
    /// In order of rank.
    parts: Vec<Part>,
    zeros: Vec<u8>,
}

/// Rows that any worker has.
enum Touched {
    /// The first so many, so all.
    All(u64),
    /// Ascending.
    Some(Vec<u64>),
}

/// What a worker has.
struct Part {
    /// Ascending; `None` for all rows.
    ids: Option<Vec<u64>>,
    /// Elements without gaps.
    values: Vec<u8>,
    /// The ids' part of `limits.row_ids`, until the round is done.
    _held: Option<OwnedSemaphorePermit>,
}

/// Goes through the rows once, in ascending order, and through each worker's along with them.
pub(crate) struct Cursor<'a> {
    merged: &'a MergedRows,
    position: usize,
    /// For each worker, in order of rank: the first of its own rows that is not passed.
    own: Vec<usize>,
    parts: Vec<stepbox_reduce::Gradient<'a>>,
}

impl MergedRows {
    /// Merges the workers' gradients, in order of rank, for a tensor of this many rows and columns.
    pub fn new(rows: u64, columns: usize, gradients: Vec<Gradient>) -> Self {
        let ids: Option<Vec<&[u64]>> = gradients.iter().map(Gradient::row_ids).collect();
        let touched = ids.map_or(Touched::All(rows), |ids| Touched::Some(union(&ids)));
        let parts = gradients.into_iter().map(|gradient| match gradient {
            Gradient::Dense(dense) => Part { ids: None, values: dense.into_values(), _held: None },
            Gradient::Rows(Rows { ids, values, held }) => Part { ids: Some(ids), values, _held: held },
        });
        Self { columns, touched, parts: parts.collect(), zeros: vec![0; columns * size_of::<f32>()] }
    }

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Positions of the rows within a range.
    pub fn within(&self, rows: Range<u64>) -> Range<usize> {
        match &self.touched {
            // The tensor's values are in memory, so its rows can be counted.
            Touched::All(all) => rows.start.min(*all) as usize..rows.end.min(*all) as usize,
            Touched::Some(ids) => before(ids, rows.start)..before(ids, rows.end),
        }
    }

    /// The row at a position.
    pub fn row(&self, position: usize) -> u64 {
        match &self.touched {
            Touched::All(_) => position as u64,
            Touched::Some(ids) => ids[position],
        }
    }

    /// Begins at a position.
    pub fn from(&self, position: usize) -> Cursor<'_> {
        let count = match &self.touched {
            Touched::All(all) => *all as usize,
            Touched::Some(ids) => ids.len(),
        };
        let passed = |ids: &[u64]| if position < count { before(ids, self.row(position)) } else { ids.len() };
        let own = self.parts.iter().map(|part| part.ids.as_deref().map_or(0, passed));
        Cursor { merged: self, position, own: own.collect(), parts: Vec::with_capacity(self.parts.len()) }
    }
}

impl<'a> Cursor<'a> {
    /// What each worker has for the next row, in order of rank.
    pub fn parts(&mut self) -> &[stepbox_reduce::Gradient<'a>] {
        let merged = self.merged;
        let row = merged.row(self.position);
        self.position += 1;
        self.parts.clear();
        for (part, own) in merged.parts.iter().zip(&mut self.own) {
            let own = match &part.ids {
                None => Some(row as usize),
                Some(ids) => (ids.get(*own) == Some(&row)).then(|| std::mem::replace(own, *own + 1)),
            };
            let row_bytes = merged.zeros.len();
            let values = own.map_or(&merged.zeros[..], |own| &part.values[own * row_bytes..][..row_bytes]);
            self.parts.push(stepbox_reduce::Gradient::f32(values));
        }
        &self.parts
    }
}

/// How many of these ids are below another one.
fn before(ids: &[u64], end: u64) -> usize {
    ids.partition_point(|id| *id < end)
}

/// All ids of ascending lists, ascending, each once, without room to spare. While it works it takes up to six times what
/// it returns: four times as ids, and half of that again to sort them.
fn union(lists: &[&[u64]]) -> Vec<u64> {
    let (mut union, mut distinct): (Vec<u64>, usize) = (Vec::new(), 0);
    let merge = |union: &mut Vec<u64>| {
        // Finds the ascending runs that it consists of.
        union.sort();
        union.dedup();
        union.len()
    };
    for list in lists {
        union.reserve_exact(list.len());
        union.extend_from_slice(list);
        // Before repetitions are most of it: it never has more than a few times the tensor's rows.
        if union.len() > 2 * distinct + list.len() {
            distinct = merge(&mut union);
        }
    }
    merge(&mut union);
    union.shrink_to_fit();
    union
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepbox_reduce::Format;

    use crate::tensor::Dense;

    fn rows(ids: &[u64], values: &[f32]) -> Gradient {
        Gradient::Rows(Rows { ids: ids.to_vec(), values: bytes(values), held: None })
    }

    fn parts(merged: &MergedRows, position: usize) -> Vec<Vec<u8>> {
        merged.from(position).parts().iter().map(|part| part.bytes().to_vec()).collect()
    }

    fn dense(values: &[f32]) -> Gradient {
        let (first, second) = values.split_at(values.len() / 2);
        Gradient::Dense(Dense { format: Format::F32, chunks: vec![bytes(first), bytes(second)].into() })
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn rows_are_merged_in_order_and_missing_ones_are_zeros() {
        let merged =
            MergedRows::new(9, 2, vec![rows(&[1, 5], &[1.0, 2.0, 3.0, 4.0]), rows(&[0, 5], &[5.0, 6.0, 7.0, 8.0])]);
        assert_eq!((0..3).map(|position| merged.row(position)).collect::<Vec<_>>(), [0, 1, 5]);
        assert_eq!(parts(&merged, 0), [bytes(&[0.0, 0.0]), bytes(&[5.0, 6.0])]);
        assert_eq!(parts(&merged, 1), [bytes(&[1.0, 2.0]), bytes(&[0.0, 0.0])]);
        assert_eq!(parts(&merged, 2), [bytes(&[3.0, 4.0]), bytes(&[7.0, 8.0])]);
        assert_eq!((merged.within(1..5), merged.within(5..9), merged.within(6..9)), (1..2, 2..3, 3..3));
    }

    #[test]
    fn a_whole_gradient_touches_all_rows() {
        let merged = MergedRows::new(2, 1, vec![dense(&[1.0, 2.0]), rows(&[1], &[3.0])]);
        assert_eq!(merged.within(0..2), 0..2);
        assert_eq!(parts(&merged, 0), [bytes(&[1.0]), bytes(&[0.0])]);
        assert_eq!(parts(&merged, 1), [bytes(&[2.0]), bytes(&[3.0])]);
    }

    #[test]
    fn a_cursor_finds_what_each_row_has_from_wherever_it_begins() {
        let (columns, rows) = (3, 97);
        // Of different steps, so that rows are touched by none, some or all of the workers.
        let steps = [1, 2, 3, 5, 50, 200];
        let own = |step: u64| (0..rows).step_by(step as usize).collect::<Vec<u64>>();
        let value = |step: u64, row: u64| [step as f32, row as f32, 1.0];
        let gradient = |step: u64| {
            let values: Vec<f32> = own(step).into_iter().flat_map(|row| value(step, row)).collect();
            Gradient::Rows(Rows { ids: own(step), values: bytes(&values), held: None })
        };
        for steps in [&steps[..], &steps[1..], &steps[3..]] {
            let merged = MergedRows::new(rows, columns, steps.iter().map(|step| gradient(*step)).collect());
            let all = merged.within(0..rows);
            assert!(all.clone().map(|position| merged.row(position)).is_sorted_by(|one, other| one < other));
            for first in all.clone() {
                let mut cursor = merged.from(first);
                for position in first..all.end {
                    let row = merged.row(position);
                    let expected =
                        steps.iter().map(|step| if row.is_multiple_of(*step) { value(*step, row) } else { [0.0; 3] });
                    let expected: Vec<_> = expected.map(|values| bytes(&values)).collect();
                    let found: Vec<_> = cursor.parts().iter().map(|part| part.bytes().to_vec()).collect();
                    assert_eq!(found, expected, "row {row}");
                }
            }
            assert_eq!(merged.from(all.end).own.len(), steps.len(), "behind the last row nothing is left");
        }
    }

    #[test]
    fn what_is_kept_does_not_grow_with_rows_times_workers() {
        let (rows, workers) = (10_000, 500);
        let every = || (0..rows).collect::<Vec<u64>>();
        let lists = vec![every(); workers];
        let lists: Vec<_> = lists.iter().map(Vec::as_slice).collect();
        let united = union(&lists);
        assert_eq!(united, every());
        assert_eq!(united.capacity(), rows as usize, "8 bytes a row");
        let mut gradients = vec![dense(&vec![1.0; rows as usize])];
        gradients.extend((1..workers).map(|_| self::rows(&[7], &[2.0])));
        let merged = MergedRows::new(rows, 1, gradients);
        assert!(matches!(merged.touched, Touched::All(all) if all == rows), "rows that are all there are not listed");
        assert_eq!(merged.from(7).parts().len(), workers);
    }
}
