//! Matrices, and their product at native speed.
//!
//! In a component, the server computes [`multiply`]: it costs little fuel and uses the widest vectors of the processor.
//! Natively, the same code computes the product. Its order of operations is part of the contract, so that every
//! processor gives the same bits, in the sandbox and natively.
//!
//! The SDK's feature `nalgebra` adds copies and views as matrices of that crate, for decompositions of small matrices.
//! `nalgebra` is compiled into the component and metered like the rest of it. Decompose in `f64` (`map(f64::from)`): in
//! `f32` the squares of tiny entries underflow, and low-rank matrices with such entries result in NaN.

#[cfg(feature = "nalgebra")]
pub use nalgebra;

/// Checks that `values` is the number of elements of a matrix of `rows` by `columns`.
fn extents(values: usize, rows: usize, columns: usize) -> Result<(), String> {
    match rows.checked_mul(columns) {
        Some(elements) if elements == values => Ok(()),
        _ => Err(format!("{rows} x {columns} elements are not {values}")),
    }
}

/// A read-only matrix: values in row-major order, optionally transposed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatrixRef<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> MatrixRef<'a> {
    /// A matrix of `rows` by `columns` with `values` in row-major order.
    ///
    /// # Errors
    /// The number of values is not `rows * columns`.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Result<Self, String> {
        extents(values.len(), rows, columns)?;
        Ok(Self { values, rows, columns, transposed: false })
    }

    /// The transpose, without moving values.
    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Number of rows, after any transposition.
    pub fn rows(&self) -> usize {
        if self.transposed { self.columns } else { self.rows }
    }

    /// Number of columns, after any transposition.
    pub fn columns(&self) -> usize {
        if self.transposed { self.rows } else { self.columns }
    }

    /// The element in this row and column.
    ///
    /// # Panics
    /// If the row or column is outside the matrix.
    pub fn at(&self, row: usize, column: usize) -> f32 {
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        assert!(column < self.columns, "column {column} of {}", self.columns);
        self.values[row * self.columns + column]
    }

    /// A copy as a `nalgebra` matrix.
    #[cfg(feature = "nalgebra")]
    pub fn to_nalgebra(&self) -> nalgebra::DMatrix<f32> {
        let stored = nalgebra::DMatrix::from_row_slice(self.rows, self.columns, self.values);
        if self.transposed { stored.transpose() } else { stored }
    }
}

/// The transpose of a row-major matrix of `rows` by `columns`, as a view of `nalgebra`, which stores matrices column by
/// column. For a symmetric matrix, this is the matrix itself.
///
/// There is no view of the untransposed matrix: its columns would not be contiguous, and `nalgebra` (0.35) reads and
/// writes outside such views (`nalgebra` issue 1616).
///
/// # Errors
/// The number of values is not `rows * columns`.
#[cfg(feature = "nalgebra")]
pub fn transposed_view(values: &[f32], rows: usize, columns: usize) -> Result<nalgebra::DMatrixView<'_, f32>, String> {
    extents(values.len(), rows, columns)?;
    Ok(nalgebra::DMatrixView::from_slice(values, columns, rows))
}

/// A mutable [`transposed_view`].
///
/// # Errors
/// The number of values is not `rows * columns`.
#[cfg(feature = "nalgebra")]
pub fn transposed_view_mut(
    values: &mut [f32],
    rows: usize,
    columns: usize,
) -> Result<nalgebra::DMatrixViewMut<'_, f32>, String> {
    extents(values.len(), rows, columns)?;
    Ok(nalgebra::DMatrixViewMut::from_slice(values, columns, rows))
}

/// A mutable matrix in row-major order.
#[derive(Debug, PartialEq)]
pub struct MatrixMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    columns: usize,
}

impl<'a> MatrixMut<'a> {
    /// A matrix of `rows` by `columns` with `values` in row-major order.
    ///
    /// # Errors
    /// The number of values is not `rows * columns`.
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Result<Self, String> {
        extents(values.len(), rows, columns)?;
        Ok(Self { values, rows, columns })
    }
}

/// An owned matrix in row-major order, for work space. Include its bytes in
/// [`Plan::whole_tensor`](crate::Plan::whole_tensor).
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Matrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { values: vec![0.0; rows * columns], rows, columns }
    }

    /// A matrix of `rows` by `columns` with `values` in row-major order.
    ///
    /// # Errors
    /// The number of values is not `rows * columns`.
    pub fn from_values(values: Vec<f32>, rows: usize, columns: usize) -> Result<Self, String> {
        extents(values.len(), rows, columns)?;
        Ok(Self { values, rows, columns })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All elements, in row-major order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All elements, in row-major order, mutable.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// A read-only view.
    pub fn matrix(&self) -> MatrixRef<'_> {
        MatrixRef { values: &self.values, rows: self.rows, columns: self.columns, transposed: false }
    }

    /// A read-only view of the transpose.
    pub fn transposed(&self) -> MatrixRef<'_> {
        self.matrix().transposed()
    }

    /// A mutable view.
    pub fn matrix_mut(&mut self) -> MatrixMut<'_> {
        MatrixMut { values: &mut self.values, rows: self.rows, columns: self.columns }
    }
}

/// Computes `product = alpha * left * right + beta * product`. If `beta` is 0, the old contents of `product` are not
/// read.
///
/// A server that meters fuel charges one unit for eight multiplications.
///
/// # Errors
/// The extents do not match. The message contains the extents of all three matrices.
pub fn multiply(
    alpha: f32,
    left: MatrixRef<'_>,
    right: MatrixRef<'_>,
    beta: f32,
    product: &mut MatrixMut<'_>,
) -> Result<(), String> {
    if left.columns() != right.rows() || left.rows() != product.rows || right.columns() != product.columns {
        return Err(format!(
            "a {} x {} matrix by a {} x {} matrix is no {} x {} matrix",
            left.rows(),
            left.columns(),
            right.rows(),
            right.columns(),
            product.rows,
            product.columns
        ));
    }
    product_into(alpha, left, right, beta, product);
    Ok(())
}

#[cfg(not(target_arch = "wasm32"))]
fn product_into(alpha: f32, left: MatrixRef<'_>, right: MatrixRef<'_>, beta: f32, product: &mut MatrixMut<'_>) {
    use std::convert::Infallible;

    use stepbox_matrix::{Factor, Target};

    fn factor<'a>(matrix: &MatrixRef<'a>) -> Factor<'a> {
        let (row_stride, column_stride) = if matrix.transposed { (1, matrix.columns) } else { (matrix.columns, 1) };
        let (rows, columns) = (matrix.rows(), matrix.columns());
        Factor { elements: matrix.values, rows, columns, row_stride, column_stride }
    }
    let target = Target { elements: product.values, columns: product.columns, stride: product.columns };
    let Ok(()) =
        stepbox_matrix::multiply((alpha, beta), factor(&left), factor(&right), target, || Ok::<_, Infallible>(()));
}

#[cfg(target_arch = "wasm32")]
fn product_into(alpha: f32, left: MatrixRef<'_>, right: MatrixRef<'_>, beta: f32, product: &mut MatrixMut<'_>) {
    use crate::component::bindings::stepbox::optimizer::linear_algebra as server;

    // The server reads and writes through these addresses; exposing them tells the compiler so.
    let matrix = |address: usize, rows: usize, columns: usize, transposed: bool| server::Matrix {
        offset: address as u32,
        rows: rows as u32,
        columns: columns as u32,
        stride: columns as u32,
        transposed,
    };
    let factor = |factor: &MatrixRef<'_>| {
        matrix(factor.values.as_ptr().expose_provenance(), factor.rows, factor.columns, factor.transposed)
    };
    let target = matrix(product.values.as_mut_ptr().expose_provenance(), product.rows, product.columns, false);
    server::multiply(alpha, factor(&left), factor(&right), beta, target);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

    #[test]
    fn products_of_all_orientations() {
        let left = MatrixRef::new(&LEFT, 2, 3).unwrap();
        let mut square = Matrix::zeros(2, 2);
        multiply(1.0, left, left.transposed(), 0.0, &mut square.matrix_mut()).unwrap();
        assert_eq!(square.values(), [14.0, 32.0, 32.0, 77.0]);
        let mut large = Matrix::from_values(vec![1.0; 9], 3, 3).unwrap();
        multiply(2.0, left.transposed(), left, -1.0, &mut large.matrix_mut()).unwrap();
        assert_eq!(large.values(), [33.0, 43.0, 53.0, 43.0, 57.0, 71.0, 53.0, 71.0, 89.0]);
        assert_eq!(left.transposed().at(2, 0), 3.0);
    }

    #[test]
    fn what_was_there_is_not_read_when_beta_is_zero() {
        let left = MatrixRef::new(&LEFT, 2, 3).unwrap();
        let mut square = Matrix::from_values(vec![f32::NAN; 4], 2, 2).unwrap();
        multiply(1.0, left, left.transposed(), 0.0, &mut square.matrix_mut()).unwrap();
        assert_eq!(square.values(), [14.0, 32.0, 32.0, 77.0]);
    }

    #[test]
    fn extents_that_do_not_fit_are_errors() {
        assert!(MatrixRef::new(&LEFT, 2, 2).is_err());
        assert!(MatrixRef::new(&LEFT, usize::MAX, 6).is_err());
        let left = MatrixRef::new(&LEFT, 2, 3).unwrap();
        let error = multiply(1.0, left, left, 0.0, &mut Matrix::zeros(2, 3).matrix_mut()).unwrap_err();
        assert!(error.contains("2 x 3"), "{error}");
        assert!(multiply(1.0, left, left.transposed(), 0.0, &mut Matrix::zeros(3, 2).matrix_mut()).is_err());
    }

    #[cfg(feature = "nalgebra")]
    #[test]
    fn nalgebra_sees_the_same_matrix() {
        let left = MatrixRef::new(&LEFT, 2, 3).unwrap();
        let (copy, transposed) = (left.to_nalgebra(), left.transposed().to_nalgebra());
        assert_eq!((copy[(0, 2)], transposed[(2, 0)], transposed.nrows()), (3.0, 3.0, 3));
        let view = transposed_view(&LEFT, 2, 3).unwrap();
        assert_eq!(view, transposed);
        assert_eq!((copy * view).as_slice(), [14.0, 32.0, 32.0, 77.0]);
        let mut values = LEFT;
        transposed_view_mut(&mut values, 2, 3).unwrap()[(2, 0)] = 7.0;
        assert_eq!(values[2], 7.0);
        assert!(transposed_view(&LEFT, 2, 2).is_err());
    }
}
