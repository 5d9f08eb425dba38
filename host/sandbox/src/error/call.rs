//! Calls into a component that failed.

use thiserror::Error;

use super::Fault;

/// A call into a component that failed.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{function}: {failure}")]
pub struct CallError {
    /// The contract's function, or `instantiate`.
    pub function: &'static str,
    /// How it failed.
    pub failure: CallFailure,
}

impl CallError {
    pub(super) fn fault(&self) -> Fault {
        match self.failure {
            CallFailure::TotalMemory { .. } => Fault::Operator,
            _ => Fault::Publisher,
        }
    }
}

/// How a call failed: one variant for each limit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallFailure {
    /// It used up its fuel.
    #[error("out of fuel: the budget of {budget} units is used up")]
    OutOfFuel {
        /// What it had.
        budget: u64,
    },
    /// It ran past its deadline.
    #[error("deadline passed: still running after {milliseconds} ms")]
    Deadline {
        /// What it had.
        milliseconds: u64,
    },
    /// It wanted more linear memory than an instance may have.
    #[error("memory limit: asked to grow to {asked} bytes, {allowed} are allowed")]
    Memory {
        /// The size it wanted.
        asked: u64,
        /// What it may have.
        allowed: u64,
    },
    /// All instances together would exceed the server's memory.
    #[error(
        "memory limit of the whole server: {asked} more bytes do not fit sandbox.limits.total_memory_bytes = {limit}"
    )]
    TotalMemory {
        /// The growth it wanted.
        asked: u64,
        /// The configured total.
        limit: u64,
    },
    /// It wanted larger tables than allowed.
    #[error("table limit: asked for {asked} elements, {allowed} are allowed")]
    Table {
        /// The number it wanted.
        asked: u64,
        /// What it may have.
        allowed: u64,
    },
    /// It used up its stack.
    #[error("stack overflow in {wasm_function}")]
    StackOverflow {
        /// The innermost WebAssembly function.
        wasm_function: String,
    },
    /// It trapped.
    #[error("trap in {wasm_function}: {reason}")]
    Trap {
        /// The innermost WebAssembly function.
        wasm_function: String,
        /// What WebAssembly says.
        reason: String,
    },
    /// It called the server's matrix product with something that is no product.
    #[error("matrix product: {0}")]
    Product(ProductError),
    /// It returned an error of its own.
    #[error("the optimizer says: {0}")]
    Refused(String),
    /// Something else, such as results that are too large to take.
    #[error("{0}")]
    Other(String),
}

/// Why the server did not compute a matrix product.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProductError {
    /// The extents do not go together.
    #[error("{left:?} by {right:?} does not give {product:?} (rows, columns)")]
    Extents {
        /// Rows and columns of the left factor, transposed where asked for.
        left: (u32, u32),
        /// Of the right factor.
        right: (u32, u32),
        /// Of the product.
        product: (u32, u32),
    },
    /// A matrix is not where the component says.
    #[error("the {which} is not a matrix within the memory: its offset, stride or extents are wrong")]
    Place {
        /// Which of the three.
        which: &'static str,
    },
    /// The product would overwrite a factor.
    #[error("the product overlaps a factor, or is to be transposed")]
    Overlap,
}
