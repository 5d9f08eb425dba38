//! A matrix product that gives the same bits on every processor, on a server and where an author runs an optimizer natively.
//!
//! Its order of operations is part of the contract (`docs/contract.md`). For each element of the product, the inner
//! dimension is taken in blocks of [`DEPTH`]. The products of a block are added in order, starting from 0; then the sum
//! times `alpha` is added to the element, which before the first block was multiplied by `beta`. Each operation is
//! rounded to `f32` by itself: nothing is fused, so it does not matter which instructions the processor has. Rust never
//! contracts a multiplication and an addition; `pulp` only selects the widest vectors for the same operations.
//!
//! The blocking is that of any fast product: what one block of rows needs of both factors is packed into buffers that stay
//! in the caches, and a tile of sums stays in registers.

#![forbid(unsafe_code)]

use std::ops::Range;

use pulp::{Arch, Scalar128b, Simd, WithSimd};

/// Length of the blocks of the inner dimension. Changing it changes bits.
pub const DEPTH: usize = 256;

/// Rows of the left factor that are packed at a time: 72 KiB with [`DEPTH`] columns, for the second-level cache.
/// A multiple of every tile's rows.
const HEIGHT: usize = 72;

/// Columns of the right factor that are packed at a time: 512 KiB with [`DEPTH`] rows. A multiple of every tile's columns.
const WIDTH: usize = 512;

/// Elements of the product that are scaled between two questions whether to go on.
const SCALED_AT_ONCE: usize = 1 << 20;

/// A factor: `rows` by `columns` elements, each step apart in `elements`.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    /// From the first element to the last.
    pub elements: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

/// The product's place: rows of `columns` elements, each `stride` behind the one before.
#[derive(Debug)]
pub struct Target<'a> {
    /// From the first element to the last.
    pub elements: &'a mut [f32],
    /// Number of columns.
    pub columns: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// Computes `target = alpha * left * right + beta * target`. With a `beta` of 0, what was in `target` is not read.
///
/// Calls `go_on` about once a millisecond, and ends with its error if it returns one.
///
/// # Errors
/// What `go_on` returned. The target is then partly written.
///
/// # Panics
/// If a stride leads out of the elements, or the extents do not go together.
pub fn multiply<E>(
    (alpha, beta): (f32, f32),
    left: Factor<'_>,
    right: Factor<'_>,
    target: Target<'_>,
    go_on: impl FnMut() -> Result<(), E>,
) -> Result<(), E> {
    assert!(left.columns == right.rows && right.columns == target.columns, "extents that go together");
    Arch::new().dispatch(Multiply { alpha, beta, left, right, target, go_on })
}

struct Multiply<'a, G> {
    alpha: f32,
    beta: f32,
    left: Factor<'a>,
    right: Factor<'a>,
    target: Target<'a>,
    go_on: G,
}

impl<E, G: FnMut() -> Result<(), E>> WithSimd for Multiply<'_, G> {
    type Output = Result<(), E>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        // As many sums as the registers hold, and what is multiplied beside them.
        match S::F32_LANES {
            16.. => self.in_tiles::<S, 8, 2>(simd),
            8.. => self.in_tiles::<S, 6, 2>(simd),
            2.. => self.in_tiles::<S, 4, 2>(simd),
            // What `pulp` takes for a processor without vectors has those of its baseline, which the compiler finds.
            _ => self.in_tiles::<Scalar128b, 4, 2>(Scalar128b),
        }
    }
}

impl<E, G: FnMut() -> Result<(), E>> Multiply<'_, G> {
    /// Tiles have so many rows, and columns for so many vectors.
    #[inline(always)]
    fn in_tiles<S: Simd, const ROWS: usize, const VECTORS: usize>(mut self, simd: S) -> Result<(), E> {
        let tile_columns = VECTORS * S::F32_LANES;
        debug_assert!(HEIGHT.is_multiple_of(ROWS) && WIDTH.is_multiple_of(tile_columns));
        let Factor { rows, columns: inner, .. } = self.left;
        let columns = self.target.columns;
        self.scale(rows)?;
        // Its columns become the rows that are packed.
        let right = Factor {
            rows: self.right.columns,
            columns: self.right.rows,
            row_stride: self.right.column_stride,
            column_stride: self.right.row_stride,
            ..self.right
        };
        let depth = inner.min(DEPTH);
        let mut packed_left = vec![0.0; rows.min(HEIGHT).next_multiple_of(ROWS) * depth];
        let mut packed_right = vec![0.0; columns.min(WIDTH).next_multiple_of(tile_columns) * depth];
        let mut sums = vec![0.0; ROWS * tile_columns];
        for from in (0..inner).step_by(DEPTH) {
            let depth = from..inner.min(from + DEPTH);
            for first_column in (0..columns).step_by(WIDTH) {
                let here = first_column..columns.min(first_column + WIDTH);
                pack(&right, tile_columns, here.clone(), depth.clone(), &mut packed_right);
                for first_row in (0..rows).step_by(HEIGHT) {
                    (self.go_on)()?;
                    let rows = first_row..rows.min(first_row + HEIGHT);
                    pack(&self.left, ROWS, rows.clone(), depth.clone(), &mut packed_left);
                    let right = packed_right.chunks_exact(tile_columns * depth.len());
                    for (column, right) in here.clone().step_by(tile_columns).zip(right) {
                        let left = packed_left.chunks_exact(ROWS * depth.len());
                        for (row, left) in rows.clone().step_by(ROWS).zip(left) {
                            tile::<S, ROWS, VECTORS>(simd, left, right, &mut sums);
                            let width = tile_columns.min(here.end - column);
                            for (row, sums) in (row..rows.end).zip(sums.chunks_exact(tile_columns)) {
                                let start = row * self.target.stride + column;
                                let place = &mut self.target.elements[start..start + width];
                                place.iter_mut().zip(sums).for_each(|(place, sum)| *place += self.alpha * sum);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Multiplies what is in the target by beta.
    #[inline(always)]
    fn scale(&mut self, rows: usize) -> Result<(), E> {
        let Target { elements, columns, stride } = &mut self.target;
        let mut until_asked = SCALED_AT_ONCE;
        for row in 0..rows {
            for piece in elements[row * *stride..][..*columns].chunks_mut(SCALED_AT_ONCE) {
                if until_asked < piece.len() {
                    (self.go_on)()?;
                    until_asked = SCALED_AT_ONCE;
                }
                until_asked -= piece.len();
                match self.beta {
                    0.0 => piece.fill(0.0),
                    beta => piece.iter_mut().for_each(|element| *element *= beta),
                }
            }
        }
        Ok(())
    }
}

/// Packs rows of a factor for tiles of so many of them: for each tile all of its first column, then of its second, and so
/// on. Rows that are missing in the last tile are zeros.
#[inline(always)]
fn pack(factor: &Factor<'_>, tile: usize, rows: Range<usize>, columns: Range<usize>, packed: &mut [f32]) {
    let tiles = packed.chunks_exact_mut(tile * columns.len());
    for (first, packed) in rows.clone().step_by(tile).zip(tiles) {
        let count = tile.min(rows.end - first);
        for (column, packed) in columns.clone().zip(packed.chunks_exact_mut(tile)) {
            let start = column * factor.column_stride + first * factor.row_stride;
            let (there, missing) = packed.split_at_mut(count);
            if factor.row_stride == 1 {
                there.copy_from_slice(&factor.elements[start..start + count]);
            } else {
                let elements = factor.elements[start..].iter().step_by(factor.row_stride);
                there.iter_mut().zip(elements).for_each(|(place, element)| *place = *element);
            }
            missing.fill(0.0);
        }
    }
}

/// The sums of one tile over one block of the inner dimension, row after row. The vectors are spelled out, since the
/// compiler keeps sums in registers only where it sees that few.
#[inline(always)]
fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(simd: S, left: &[f32], right: &[f32], out: &mut [f32]) {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let right = S::as_simd_f32s(right).0.as_chunks::<VECTORS>().0;
    for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right) {
        for (sums, left) in sums.iter_mut().zip(left) {
            let left = simd.splat_f32s(*left);
            for (sum, right) in sums.iter_mut().zip(right) {
                // Two operations, and not `mul_add`: see the module's documentation.
                *sum = simd.add_f32s(*sum, simd.mul_f32s(left, *right));
            }
        }
    }
    S::as_mut_simd_f32s(out).0.iter_mut().zip(sums.as_flattened()).for_each(|(out, sum)| *out = *sum);
}

#[cfg(test)]
mod tests {
    use pulp::{Scalar, Scalar256b, Scalar512b};
    use sha2::{Digest, Sha256};

    use super::*;

    /// Made-up values between -1 and 1.
    fn values(elements: usize, seed: u32) -> Vec<f32> {
        let value = |index: usize| {
            let hash = (index as u32).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
            let hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
            (hash >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..elements).map(value).collect()
    }

    fn factor(elements: &[f32], rows: usize, columns: usize, is_transposed: bool) -> Factor<'_> {
        let (row_stride, column_stride) = if is_transposed { (1, rows) } else { (columns, 1) };
        Factor { elements, rows, columns, row_stride, column_stride }
    }

    /// What the module's documentation says, one operation after the other.
    fn as_defined((alpha, beta): (f32, f32), left: Factor<'_>, right: Factor<'_>, target: Target<'_>) {
        for row in 0..left.rows {
            for column in 0..right.columns {
                let place = &mut target.elements[row * target.stride + column];
                *place = if beta == 0.0 { 0.0 } else { beta * *place };
                for from in (0..left.columns).step_by(DEPTH) {
                    let sum = (from..left.columns.min(from + DEPTH)).fold(0.0, |sum, inner| {
                        let left = left.elements[row * left.row_stride + inner * left.column_stride];
                        sum + left * right.elements[inner * right.row_stride + column * right.column_stride]
                    });
                    *place += alpha * sum;
                }
            }
        }
    }

    fn go_on() -> Result<(), ()> {
        Ok(())
    }

    /// Vectors of a length, spelled out in plain operations.
    fn in_vectors<S: Simd>(simd: S, factors: (f32, f32), left: Factor<'_>, right: Factor<'_>, target: Target<'_>) {
        let (alpha, beta) = factors;
        Multiply { alpha, beta, left, right, target, go_on }.with_simd(simd).unwrap();
    }

    /// With the widest instructions of the processor that runs this test, and with vectors of every length.
    #[test]
    fn a_product_is_what_its_definition_says_bit_for_bit() {
        type Compute = fn((f32, f32), Factor<'_>, Factor<'_>, Target<'_>);
        let ways: [Compute; 5] = [
            |factors, left, right, target| multiply(factors, left, right, target, go_on).unwrap(),
            |factors, left, right, target| in_vectors(Scalar, factors, left, right, target),
            |factors, left, right, target| in_vectors(Scalar128b, factors, left, right, target),
            |factors, left, right, target| in_vectors(Scalar256b, factors, left, right, target),
            |factors, left, right, target| in_vectors(Scalar512b, factors, left, right, target),
        ];
        let extents = [(1, 1, 1), (3, 5, 2), (7, 300, 9), (64, 256, 48), (73, 257, 530), (130, 600, 33)];
        for (case, (rows, inner, columns)) in extents.into_iter().enumerate() {
            for transposed in 0..4 {
                let (left, right) = (values(rows * inner, case as u32), values(inner * columns, 77));
                let left = factor(&left, rows, inner, transposed & 1 == 1);
                let right = factor(&right, inner, columns, transposed & 2 == 2);
                for factors in [(1.0, 0.0), (-0.7, 1.3), (3.0, 1.0)] {
                    // Two elements more in each row, which nobody may touch.
                    let (before, stride) = (values(rows * (columns + 2), 5), columns + 2);
                    let mut defined = before.clone();
                    as_defined(factors, left, right, Target { elements: &mut defined, columns, stride });
                    for (way, compute) in ways.iter().enumerate() {
                        let mut computed = before.clone();
                        compute(factors, left, right, Target { elements: &mut computed, columns, stride });
                        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                        assert!(
                            bits(&computed) == bits(&defined),
                            "{rows} by {inner} by {columns}: {transposed}, {way}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_has_the_same_bits_on_every_processor() {
        let (rows, inner, columns) = (151, 700, 137);
        let (left, right) = (values(rows * inner, 1), values(inner * columns, 2));
        let mut product = values(rows * columns, 3);
        let target = Target { elements: &mut product, columns, stride: columns };
        let (left, right) = (factor(&left, rows, inner, false), factor(&right, inner, columns, true));
        multiply((0.9, -0.3), left, right, target, go_on).unwrap();
        let mut hash = Sha256::new();
        product.iter().for_each(|value| hash.update(value.to_le_bytes()));
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "688e74e511dd4d74af292161850eae6ff9cbcc5fedc252ad74463eaf9298e4fa");
    }

    #[test]
    fn a_product_ends_as_soon_as_it_may_not_go_on() {
        let (left, right) = (vec![1.0; 300 * 300], vec![1.0; 300 * 300]);
        let mut product = vec![0.0; 300 * 300];
        let mut asked = 0;
        let target = Target { elements: &mut product, columns: 300, stride: 300 };
        let ended =
            multiply((1.0, 0.0), factor(&left, 300, 300, false), factor(&right, 300, 300, false), target, || {
                asked += 1;
                if asked < 3 { Ok(()) } else { Err("enough") }
            });
        assert_eq!(ended, Err("enough"));
        assert_eq!((product[0], product[299 * 300]), (256.0, 0.0), "the first panel is there, and the last is not");
    }

    #[test]
    fn what_is_multiplied_by_nothing_is_not_read() {
        let mut product = [f32::NAN; 4];
        let target = Target { elements: &mut product, columns: 2, stride: 2 };
        multiply((1.0, 0.0), factor(&[], 2, 0, false), factor(&[], 0, 2, false), target, go_on).unwrap();
        assert_eq!(product, [0.0; 4]);
    }
}
