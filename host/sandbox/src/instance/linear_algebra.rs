//! The matrix product that a component may import: computed natively, in the component's own memory.
//!
//! It is paid for in fuel like any other work, before it is done, and every offset is checked against the memory. wasmtime
//! compares a call's deadline only in the component's own code, so it is compared here before a product and within it.
//! The arithmetic is that of [`stepbox_matrix`].

use std::ops::Range;
use std::time::Instant;

use stepbox_matrix::{Factor, Target};
use wasmtime::component::Linker;
use wasmtime::{StoreContextMut, Trap};

use crate::contract::bindings::LINEAR_ALGEBRA;
use crate::contract::bindings::linear_algebra::Matrix;
use crate::error::ProductError;
use crate::instance::memory::GuestMemory;
use crate::instance::state::HostState;

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
    let product = Product { alpha, left, right, beta, product };
    let deadline = store.data().deadline;
    let outcome = multiply_in(memory.during_call(), &product, deadline, |fuel| pay(&mut store, fuel));
    store.data_mut().memory = Some(memory);
    outcome
}

/// Looks at what is asked for, has it paid, and only then does it.
fn multiply_in(
    memory: &mut GuestMemory,
    product: &Product,
    deadline: Option<Instant>,
    pay: impl FnOnce(u64) -> wasmtime::Result<()>,
) -> wasmtime::Result<()> {
    let places = product.places(memory.len())?;
    pay(product.fuel())?;
    let go_on = || match deadline {
        Some(deadline) if Instant::now() >= deadline => Err(wasmtime::Error::from(Trap::Interrupt)),
        _ => Ok(()),
    };
    go_on()?;
    product.compute(memory, &places, go_on)
}

/// Takes the fuel for a product, or traps as any other instruction does for which too little is left.
fn pay(store: &mut StoreContextMut<'_, HostState>, fuel: u64) -> wasmtime::Result<()> {
    if !store.data().metering.counts_fuel() {
        return Ok(());
    }
    match store.get_fuel()?.checked_sub(fuel) {
        Some(left) => store.set_fuel(left),
        None => Err(Trap::OutOfFuel.into()),
    }
}

/// Rows and columns, after transposing.
fn extents(matrix: &Matrix) -> (u32, u32) {
    if matrix.transposed { (matrix.columns, matrix.rows) } else { (matrix.rows, matrix.columns) }
}

/// `product = alpha * left * right + beta * product`, as the component asks for it.
struct Product {
    alpha: f32,
    left: Matrix,
    right: Matrix,
    beta: f32,
    product: Matrix,
}

/// Where the matrices are: in the memory, and the product apart from its factors.
struct Operands {
    left: Range<usize>,
    right: Range<usize>,
    product: Range<usize>,
}

impl Product {
    /// Where everything is, once it is known to be so in a memory of this many bytes. Allocates nothing and looks at no
    /// element: what is asked for may be of any size.
    fn places(&self, memory_bytes: usize) -> Result<Operands, ProductError> {
        let Self { left, right, product, .. } = self;
        let (left_extents, right_extents) = (extents(left), extents(right));
        let product_extents = (product.rows, product.columns);
        if (left_extents.0, right_extents.1) != product_extents || left_extents.1 != right_extents.0 {
            return Err(ProductError::Extents { left: left_extents, right: right_extents, product: product_extents });
        }
        let place = |matrix, which| {
            place(matrix).filter(|place| place.end <= memory_bytes).ok_or(ProductError::Place { which })
        };
        let (left, right) = (place(left, "left factor")?, place(right, "right factor")?);
        let target = place(product, "product")?;
        let overlaps = |factor: &Range<usize>| factor.start < target.end && target.start < factor.end;
        if product.transposed || overlaps(&left) || overlaps(&right) {
            return Err(ProductError::Overlap);
        }
        Ok(Operands { left, right, product: target })
    }

    /// What it costs: its multiplications, and for each element that is read as much as for a multiplication. Each that is
    /// written costs as an instruction: it is what is left to pay where there is nothing to multiply.
    fn fuel(&self) -> u64 {
        let elements = |matrix: &Matrix| u128::from(matrix.rows) * u128::from(matrix.columns);
        let (rows, inner) = extents(&self.left);
        let (_, columns) = extents(&self.right);
        // Three 32-bit numbers: their product fits 96 bits.
        let multiplications = u128::from(rows) * u128::from(inner) * u128::from(columns);
        let read = multiplications + elements(&self.left) + elements(&self.right);
        let work = read.div_ceil(MULTIPLICATIONS_PER_FUEL.into()) + elements(&self.product);
        u64::try_from(work).unwrap_or(u64::MAX)
    }

    /// Computes it where it belongs: nothing is copied.
    fn compute(
        &self,
        memory: &mut GuestMemory,
        places: &Operands,
        go_on: impl FnMut() -> wasmtime::Result<()>,
    ) -> wasmtime::Result<()> {
        let target = &places.product;
        if target.is_empty() {
            return Ok(());
        }
        let all = memory.floats_mut(0, memory.len() / 4).map_err(|_| ProductError::Place { which: "product" })?;
        // Each factor lies on one side of the product, or on the other.
        let (before, rest) = all.split_at_mut(target.start / 4);
        let (written, behind) = rest.split_at_mut(target.len() / 4);
        let factor = |place: &Range<usize>| match place.end <= target.start {
            true => &before[place.start / 4..place.end / 4],
            false => &behind[(place.start - target.end) / 4..(place.end - target.end) / 4],
        };
        let (left, right) = (view(&self.left, factor(&places.left)), view(&self.right, factor(&places.right)));
        let (columns, stride) = (self.product.columns as usize, self.product.stride as usize);
        let target = Target { elements: written, columns, stride };
        stepbox_matrix::multiply((self.alpha, self.beta), left, right, target, go_on)
    }
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

/// A matrix as the product reads it, whose elements have been found to be there.
fn view<'a>(matrix: &Matrix, elements: &'a [f32]) -> Factor<'a> {
    let (rows, columns) = extents(matrix);
    let stride = matrix.stride as usize;
    let (row_stride, column_stride) = if matrix.transposed { (1, stride) } else { (stride, 1) };
    Factor { elements, rows: rows as usize, columns: columns as usize, row_stride, column_stride }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::memory::tests::{PAGE, memory};

    const LEFT: u32 = 64;
    const RIGHT: u32 = 1024;
    const PRODUCT: u32 = 4096;

    fn matrix(offset: u32, rows: u32, columns: u32) -> Matrix {
        Matrix { offset, rows, columns, stride: columns, transposed: false }
    }

    fn product(left: Matrix, right: Matrix, beta: f32, product: Matrix) -> wasmtime::Result<Vec<f32>> {
        let mut memory = memory(PAGE);
        for (offset, elements) in [(LEFT, 6), (RIGHT, 6)] {
            let values: Vec<f32> = (1..=elements).map(|value| value as f32).collect();
            memory.floats_mut(offset as usize, elements).unwrap().copy_from_slice(&values);
        }
        memory.floats_mut(PRODUCT as usize, 6).unwrap().fill(if beta == 0.0 { f32::NAN } else { 100.0 });
        multiply_in(&mut memory, &Product { alpha: 2.0, left, right, beta, product }, None, |_| Ok(()))?;
        Ok(memory.floats(PRODUCT as usize, 6).unwrap().to_vec())
    }

    #[test]
    fn a_product_is_scaled_added_and_transposed_as_asked() {
        let (left, right) = (matrix(LEFT, 2, 3), matrix(RIGHT, 3, 2));
        let target = matrix(PRODUCT, 2, 2);
        assert_eq!(product(left, right, 0.0, target).unwrap()[..4], [44.0, 56.0, 98.0, 128.0]);
        assert_eq!(product(left, right, 0.5, target).unwrap(), [94.0, 106.0, 148.0, 178.0, 100.0, 100.0]);
        let transposed = Matrix { transposed: true, ..matrix(RIGHT, 2, 3) };
        assert_eq!(product(left, transposed, 0.0, target).unwrap()[..4], [28.0, 64.0, 64.0, 154.0]);
        // A stride skips what lies between the rows.
        let spread = Matrix { stride: 3, ..matrix(RIGHT, 2, 2) };
        assert_eq!(product(matrix(LEFT, 2, 2), spread, 0.0, target).unwrap()[..4], [18.0, 24.0, 38.0, 52.0]);
        let spread = Matrix { stride: 3, ..target };
        assert_eq!(product(left, right, 0.5, spread).unwrap(), [94.0, 106.0, 100.0, 148.0, 178.0, 100.0]);
        // The factors in the other order.
        assert_eq!(
            product(matrix(RIGHT, 2, 3), matrix(LEFT, 3, 2), 0.0, target).unwrap()[..4],
            [44.0, 56.0, 98.0, 128.0]
        );
        // Nothing to multiply.
        let (left, right) = (matrix(LEFT, 2, 0), matrix(RIGHT, 0, 2));
        assert_eq!(product(left, right, 0.0, target).unwrap()[..4], [0.0; 4]);
        assert_eq!(product(left, right, 0.5, target).unwrap()[..4], [50.0; 4]);
    }

    #[test]
    fn factors_may_lie_on_either_side_of_the_product() {
        for (left, right, target) in [(8, 64, 128), (128, 64, 8), (8, 128, 64), (128, 8, 64)] {
            let mut memory = memory(PAGE);
            memory.floats_mut(left as usize, 2).unwrap().copy_from_slice(&[2.0, 3.0]);
            memory.floats_mut(right as usize, 2).unwrap().copy_from_slice(&[5.0, 7.0]);
            let (left, right) = (matrix(left, 2, 1), matrix(right, 1, 2));
            let product = Product { alpha: 1.0, left, right, beta: 0.0, product: matrix(target, 2, 2) };
            multiply_in(&mut memory, &product, None, |_| Ok(())).unwrap();
            assert_eq!(memory.floats(target as usize, 4).unwrap(), [10.0, 14.0, 15.0, 21.0]);
        }
    }

    #[test]
    fn what_is_written_is_paid_for_before_and_what_is_not_in_the_memory_is_refused_before_that() {
        let unpaid = |left, right, target| {
            let product = Product { alpha: 1.0, left, right, beta: 0.0, product: target };
            let mut asked = None;
            let refused = multiply_in(&mut memory(PAGE), &product, None, |fuel| {
                asked = Some(fuel);
                Err(Trap::OutOfFuel.into())
            });
            assert!(refused.is_err());
            asked
        };
        // Nothing to multiply, and yet 4096 elements to write.
        assert_eq!(unpaid(matrix(0, 64, 0), matrix(0, 0, 64), matrix(1024, 64, 64)), Some(4096));
        assert_eq!(unpaid(matrix(0, 8, 16), matrix(512, 16, 8), matrix(1024, 8, 8)), Some(128 + 16 + 16 + 64));
        // 64 GiB that are not there: neither taken from the system nor paid for.
        for beta in [0.0, 1.0] {
            let (left, right) = (matrix(0, 1 << 17, 0), matrix(0, 0, 1 << 17));
            let product = Product { alpha: 1.0, left, right, beta, product: matrix(0, 1 << 17, 1 << 17) };
            let refused = multiply_in(&mut memory(PAGE), &product, None, |_| panic!("paid")).unwrap_err();
            assert!(matches!(refused.downcast_ref(), Some(ProductError::Place { which: "product" })), "{refused}");
        }
    }

    #[test]
    fn a_product_does_not_begin_after_its_deadline() {
        let product = Product {
            alpha: 1.0,
            left: matrix(LEFT, 2, 3),
            right: matrix(RIGHT, 3, 2),
            beta: 0.0,
            product: matrix(PRODUCT, 2, 2),
        };
        let late = multiply_in(&mut memory(PAGE), &product, Some(Instant::now()), |_| Ok(())).unwrap_err();
        assert_eq!(late.downcast_ref(), Some(&Trap::Interrupt));
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
            (matrix(LEFT, 1 << 16, 0), matrix(RIGHT, 0, 1 << 16), matrix(0, 1 << 16, 1 << 16)),
            (matrix(LEFT, u32::MAX, u32::MAX), matrix(RIGHT, u32::MAX, u32::MAX), matrix(PRODUCT, u32::MAX, u32::MAX)),
        ] {
            let shown = format!("{left:?} {right:?} {target:?}");
            assert!(product(left, right, 0.0, target).is_err(), "{shown}");
        }
    }
}
