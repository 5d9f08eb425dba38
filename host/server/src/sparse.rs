//! The rows that a round touches: those for which any worker has a gradient.
//!
//! A row that a worker has no gradient for counts as zeros from it, so that the result is bit for bit that of the same
//! gradients sent whole. The work is in proportion to the rows that are there.

use std::ops::Range;

use crate::gradient::{Gradient, Rows};

/// The union of all workers' rows, in ascending order, with where each worker's part lies.
pub(crate) struct MergedRows {
    columns: usize,
    rows: Vec<u64>,
    /// What each worker has, in order of rank: elements without gaps.
    values: Vec<Vec<u8>>,
    /// For each row, and for each worker in order of rank: the position of the row among the worker's own.
    positions: Vec<Option<u32>>,
    zeros: Vec<u8>,
}

impl MergedRows {
    /// Merges the workers' gradients, in order of rank, for a tensor of this many rows and columns.
    pub fn new(rows: u64, columns: usize, gradients: Vec<Gradient>) -> Self {
        let zeros = vec![0; columns * size_of::<f32>()];
        let whole = gradients.iter().any(|gradient| matches!(gradient, Gradient::Dense(_)));
        let union: Vec<u64> = if whole {
            (0..rows).collect()
        } else {
            let ids = gradients.iter().filter_map(Gradient::row_ids);
            let mut union: Vec<u64> = ids.flatten().copied().collect();
            union.sort_unstable();
            union.dedup();
            union
        };
        let mut positions = vec![None; union.len() * gradients.len()];
        for (rank, gradient) in gradients.iter().enumerate() {
            // Rows and the worker's own ids ascend together.
            let mut own = gradient.row_ids().map(|ids| ids.iter().zip(0_u32..).peekable());
            for (index, row) in union.iter().enumerate() {
                positions[index * gradients.len() + rank] = match &mut own {
                    Some(own) => own.next_if(|(id, _)| *id == row).map(|(_, position)| position),
                    None => u32::try_from(*row).ok(),
                };
            }
        }
        let values = gradients.into_iter().map(|gradient| match gradient {
            Gradient::Dense(dense) => dense.into_values(),
            Gradient::Rows(Rows { values, .. }) => values,
        });
        Self { columns, rows: union, values: values.collect(), positions, zeros }
    }

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Positions of the rows within a range.
    pub fn within(&self, rows: Range<u64>) -> Range<usize> {
        let before = |end: u64| self.rows.partition_point(|row| *row < end);
        before(rows.start)..before(rows.end)
    }

    /// The row at a position.
    pub fn row(&self, position: usize) -> u64 {
        self.rows[position]
    }

    /// What each worker has for the row at a position, in order of rank.
    pub fn parts(&self, position: usize) -> Vec<stepbox_reduce::Gradient<'_>> {
        let workers = self.values.len();
        let own = &self.positions[position * workers..(position + 1) * workers];
        own.iter()
            .zip(&self.values)
            .map(|(own, values)| match own {
                Some(own) => &values[*own as usize * self.zeros.len()..][..self.zeros.len()],
                None => &self.zeros[..],
            })
            .map(stepbox_reduce::Gradient::f32)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepbox_reduce::Format;

    use crate::gradient::Dense;

    fn rows(ids: &[u64], values: &[f32]) -> Gradient {
        Gradient::Rows(Rows { ids: ids.to_vec(), values: bytes(values) })
    }

    fn parts(merged: &MergedRows, position: usize) -> Vec<Vec<u8>> {
        merged.parts(position).iter().map(|part| part.bytes().to_vec()).collect()
    }

    fn dense(values: &[f32]) -> Gradient {
        let (first, second) = values.split_at(values.len() / 2);
        Gradient::Dense(Dense { format: Format::F32, chunks: vec![bytes(first), bytes(second)] })
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
}
