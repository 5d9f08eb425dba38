//! Rows and columns of a tensor, and what of them a slice touches.

use std::ops::Range;

/// A tensor as a matrix: its rows are its first axis, a row's elements all others. With fewer than two axes it is one
/// row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Number of rows.
    pub rows: u64,
    /// Elements of a row.
    pub columns: u64,
}

impl Geometry {
    /// Of a tensor of this shape; `None` where its number of elements overflows.
    pub fn of(shape: &[u64]) -> Option<Self> {
        let product = |axes: &[u64]| axes.iter().try_fold(1_u64, |product, extent| product.checked_mul(*extent));
        let geometry = match shape {
            [rows, others @ ..] if !others.is_empty() => Self { rows: *rows, columns: product(others)? },
            _ => Self { rows: 1, columns: product(shape)? },
        };
        geometry.rows.checked_mul(geometry.columns).map(|_| geometry)
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.rows * self.columns
    }

    /// The rows that a run of elements touches.
    pub(crate) fn rows_of(&self, elements: Range<u64>) -> Range<u64> {
        if self.columns == 0 || elements.is_empty() {
            return 0..0;
        }
        elements.start / self.columns..elements.end.div_ceil(self.columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensors_rows_are_its_first_axis() {
        assert_eq!(Geometry::of(&[]), Some(Geometry { rows: 1, columns: 1 }));
        assert_eq!(Geometry::of(&[7]), Some(Geometry { rows: 1, columns: 7 }));
        assert_eq!(Geometry::of(&[3, 5, 2]), Some(Geometry { rows: 3, columns: 10 }));
        assert_eq!(Geometry::of(&[1 << 40, 1 << 40]), None);
        assert_eq!(Geometry::of(&[3, 0]).map(|geometry| geometry.elements()), Some(0));
    }

    #[test]
    fn rows_cut_by_a_border_are_touched_on_both_sides() {
        let geometry = Geometry { rows: 4, columns: 10 };
        assert_eq!(geometry.rows_of(0..15), 0..2);
        assert_eq!(geometry.rows_of(15..40), 1..4);
        assert_eq!(geometry.rows_of(20..20), 0..0);
    }
}
