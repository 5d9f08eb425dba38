//! The matrix product that a component may import: computed natively, in the component's own memory.
//!
//! It is paid for in fuel like any other work, before it is done, and every offset is checked against the memory.
//! The arithmetic is that of the `matrixmultiply` crate, through `ndarray`'s safe interface.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};
use wasmtime::component::Linker;
use wasmtime::{StoreContextMut, Trap};

use crate::contract::LINEAR_ALGEBRA;
use crate::contract::linear_algebra::Matrix;
use crate::error::ProductError;
use crate::instance::HostState;
use crate::memory::GuestMemory;

/// Multiplications for one unit of fuel. A unit is about one WebAssembly instruction, and a processor with 256-bit
/// vectors does 8 multiplications with one.
const MULTIPLICATIONS_PER_FUEL: u64 = 8;

/// Offers the product to components.
pub(crate) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    linker.instance(LINEAR_ALGEBRA)?.func_wrap(
        "multiply",
        |store: StoreContextMut<'_, HostState>, arguments: (f32, Matrix, Matrix, f32, Matrix)| {
            multiply(store, arguments)
        },
    )
}

fn multiply(
    mut store: StoreContextMut<'_, HostState>,
    (alpha, left, right, beta, product): (f32, Matrix, Matrix, f32, Matrix),
) -> wasmtime::Result<()> {
    let Some(mut memory) = store.data_mut().memory.take() else {
        return Err(wasmtime::Error::msg("matrix product: not before the component is instantiated"));
    };
    let outcome = pay(&mut store, &left, &right, &product)
        .and_then(|()| Ok(product_in(memory.during_call(), alpha, &left, &right, beta, &product)?));
    store.data_mut().memory = Some(memory);
    outcome
}

/// Takes the fuel for a product, or traps as any other instruction does for which too little is left. Reading the factors
/// and writing the product costs as a multiplication for each element.
fn pay(
    store: &mut StoreContextMut<'_, HostState>,
    left: &Matrix,
    right: &Matrix,
    product: &Matrix,
) -> wasmtime::Result<()> {
    if !store.data().metering.counts_fuel() {
        return Ok(());
    }
    let elements = |matrix: &Matrix| u128::from(matrix.rows) * u128::from(matrix.columns);
    let (rows, inner) = extents(left);
    let (_, columns) = extents(right);
    // Three 32-bit numbers: their product fits 96 bits.
    let multiplications = u128::from(rows) * u128::from(inner) * u128::from(columns);
    let work = multiplications + elements(left) + elements(right) + elements(product);
    let fuel = u64::try_from(work.div_ceil(MULTIPLICATIONS_PER_FUEL.into())).unwrap_or(u64::MAX);
    match store.get_fuel()?.checked_sub(fuel) {
        Some(left) => store.set_fuel(left),
        None => Err(Trap::OutOfFuel.into()),
    }
}

/// Rows and columns, after transposing.
fn extents(matrix: &Matrix) -> (u32, u32) {
    if matrix.transposed { (matrix.columns, matrix.rows) } else { (matrix.rows, matrix.columns) }
}

fn product_in(
    memory: &mut GuestMemory,
    alpha: f32,
    left: &Matrix,
    right: &Matrix,
    beta: f32,
    product: &Matrix,
) -> Result<(), ProductError> {
    let (left_extents, right_extents) = (extents(left), extents(right));
    let product_extents = (product.rows, product.columns);
    if (left_extents.0, right_extents.1) != product_extents || left_extents.1 != right_extents.0 {
        return Err(ProductError::Extents { left: left_extents, right: right_extents, product: product_extents });
    }
    let place = |matrix, which| place(matrix).ok_or(ProductError::Place { which });
    let (left_place, right_place) = (place(left, "left factor")?, place(right, "right factor")?);
    let target = place(product, "product")?;
    let overlaps = |factor: &Range<usize>| factor.start < target.end && target.start < factor.end;
    if product.transposed || overlaps(&left_place) || overlaps(&right_place) {
        return Err(ProductError::Overlap);
    }
    if target.is_empty() {
        return Ok(());
    }
    // Apart from each other, but one memory: the product is computed beside it, without gaps, and written back.
    let (columns, stride) = (product.columns as usize, product.stride as usize);
    let mut computed = vec![0.0; product.rows as usize * columns];
    if beta != 0.0 {
        // Otherwise what was there must not be read: NaN times 0 is NaN.
        let former = floats(memory, &target, "product")?;
        for (row, former) in computed.chunks_exact_mut(columns).zip(former.chunks(stride)) {
            row.copy_from_slice(&former[..columns]);
        }
    }
    let left = view(left, floats(memory, &left_place, "left factor")?)?;
    let right = view(right, floats(memory, &right_place, "right factor")?)?;
    let shape = (product.rows as usize, columns);
    let mut result =
        ArrayViewMut2::from_shape(shape, &mut computed).map_err(|_| ProductError::Place { which: "product" })?;
    ndarray::linalg::general_mat_mul(alpha, &left, &right, beta, &mut result);
    let written = memory.floats_mut(target.start, target.len() / 4).ok_or(ProductError::Place { which: "product" })?;
    for (row, place) in computed.chunks_exact(columns).zip(written.chunks_mut(stride)) {
        place[..columns].copy_from_slice(row);
    }
    Ok(())
}

/// The bytes from a matrix's first element to its last. `None` where its stride or extents make no sense.
fn place(matrix: &Matrix) -> Option<Range<usize>> {
    if matrix.stride < matrix.columns || !matrix.offset.is_multiple_of(4) {
        return None;
    }
    let start = u64::from(matrix.offset);
    if matrix.rows == 0 || matrix.columns == 0 {
        return Some(start as usize..start as usize);
    }
    let elements = u64::from(matrix.rows - 1) * u64::from(matrix.stride) + u64::from(matrix.columns);
    let end = elements.checked_mul(4)?.checked_add(start)?;
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

fn floats<'a>(memory: &'a GuestMemory, place: &Range<usize>, which: &'static str) -> Result<&'a [f32], ProductError> {
    memory.floats(place.start, place.len() / 4).ok_or(ProductError::Place { which })
}

fn view<'a>(matrix: &Matrix, elements: &'a [f32]) -> Result<ArrayView2<'a, f32>, ProductError> {
    let shape = (matrix.rows as usize, matrix.columns as usize).strides((matrix.stride as usize, 1));
    let mut view =
        ArrayView2::from_shape(shape, elements).map_err(|_| ProductError::Place { which: "left or right factor" })?;
    if matrix.transposed {
        view.swap_axes(0, 1);
    }
    Ok(view)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::{PAGE, memory};

    const LEFT: u32 = 64;
    const RIGHT: u32 = 1024;
    const PRODUCT: u32 = 4096;

    fn matrix(offset: u32, rows: u32, columns: u32) -> Matrix {
        Matrix { offset, rows, columns, stride: columns, transposed: false }
    }

    fn product(left: Matrix, right: Matrix, beta: f32, product: Matrix) -> Result<Vec<f32>, ProductError> {
        let mut memory = memory(PAGE);
        for (offset, elements) in [(LEFT, 6), (RIGHT, 6)] {
            let values: Vec<f32> = (1..=elements).map(|value| value as f32).collect();
            memory.floats_mut(offset as usize, elements).unwrap().copy_from_slice(&values);
        }
        memory.floats_mut(PRODUCT as usize, 4).unwrap().fill(if beta == 0.0 { f32::NAN } else { 100.0 });
        product_in(&mut memory, 2.0, &left, &right, beta, &product)?;
        Ok(memory.floats(PRODUCT as usize, 4).unwrap().to_vec())
    }

    #[test]
    fn a_product_is_scaled_added_and_transposed_as_asked() {
        let (left, right) = (matrix(LEFT, 2, 3), matrix(RIGHT, 3, 2));
        let target = matrix(PRODUCT, 2, 2);
        assert_eq!(product(left, right, 0.0, target).unwrap(), [44.0, 56.0, 98.0, 128.0]);
        assert_eq!(product(left, right, 0.5, target).unwrap(), [94.0, 106.0, 148.0, 178.0]);
        let transposed = Matrix { transposed: true, ..matrix(RIGHT, 2, 3) };
        assert_eq!(product(left, transposed, 0.0, target).unwrap(), [28.0, 64.0, 64.0, 154.0]);
        // A stride skips what lies between the rows.
        let spread = Matrix { stride: 3, ..matrix(RIGHT, 2, 2) };
        assert_eq!(product(matrix(LEFT, 2, 2), spread, 0.0, target).unwrap(), [18.0, 24.0, 38.0, 52.0]);
    }

    #[test]
    fn hostile_matrices_are_refused() {
        let (left, right, target) = (matrix(LEFT, 2, 3), matrix(RIGHT, 3, 2), matrix(PRODUCT, 2, 2));
        for (left, right, target) in [
            (matrix(LEFT, 2, 2), right, target),
            (left, right, matrix(PRODUCT, 2, 3)),
            (matrix(LEFT + 2, 2, 3), right, target),
            (matrix(u32::MAX - 7, 2, 3), right, target),
            (Matrix { stride: 2, ..left }, right, target),
            (Matrix { stride: u32::MAX, ..left }, right, target),
            (left, matrix(PAGE as u32 - 4, 3, 2), target),
            (left, right, matrix(PAGE as u32, 2, 2)),
            (left, right, matrix(LEFT, 2, 2)),
            (left, right, matrix(RIGHT + 8, 2, 2)),
            (left, right, Matrix { transposed: true, ..target }),
            (matrix(LEFT, u32::MAX, u32::MAX), matrix(RIGHT, u32::MAX, u32::MAX), matrix(PRODUCT, u32::MAX, u32::MAX)),
        ] {
            let shown = format!("{left:?} {right:?} {target:?}");
            assert!(product(left, right, 0.0, target).is_err(), "{shown}");
        }
    }
}
