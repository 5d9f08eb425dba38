//! What can go wrong, and whose fault it is.

mod compile_limit;
mod forbidden;
mod miss;
mod not_in_memory;
mod reason;
mod tampering;

use std::fmt;

use thiserror::Error;

pub use compile_limit::CompileLimit;
pub use forbidden::Forbidden;
pub use miss::Miss;
pub(crate) use not_in_memory::NotInMemory;
pub use tampering::{Found, TamperedPart, Tampering};

/// Who has to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The optimizer is wrong: its publisher.
    Publisher,
    /// The gradients are: whoever sends them.
    Worker,
    /// Configuration or capacity: whoever runs the server.
    Operator,
    /// Stepbox itself.
    Server,
}

/// Why a component was not admitted, or could not be given room.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SandboxError {
    /// A configured limit with which nothing could run, or not safely.
    #[error("sandbox.limits.{name} is {value}; it must be from 1 to {greatest}")]
    LimitOutOfRange {
        /// The limit.
        name: &'static str,
        /// What was configured.
        value: u64,
        /// The greatest value that is taken.
        greatest: u64,
    },
    /// The engine could not be set up.
    #[error("the sandbox's engine cannot start: {0}")]
    Engine(String),
    /// It consists of what the compiler is not shown.
    #[error("this is no component that an optimizer may be: {0}")]
    Forbidden(#[from] Forbidden),
    /// wasmtime does not compile it.
    #[error("this is not a component the sandbox can compile: {0}")]
    Invalid(String),
    /// Compiling the component takes too much.
    #[error("compiling the component takes {0}; it was stopped, and nothing has changed")]
    CompileLimit(CompileLimit),
    /// The process that compiled the component was ended by somebody else: where the machine has no memory left, by the
    /// system.
    #[error("the process that compiled the component was ended from outside ({0}); try again")]
    CompilerKilled(String),
    /// The process that compiles crashed, or there is none.
    #[error("the component could not be compiled: {0}")]
    Compiler(String),
    /// The component does not export the contract's interface.
    #[error("the component does not export {expected}; build it with the guest SDK of a version this server offers")]
    NoContract {
        /// The interface that must be exported.
        expected: &'static str,
    },
    /// The component imports something that is not on the allow-list.
    #[error("the component imports {import}, which optimizers may not use{hint}")]
    ForbiddenImport {
        /// Name of the import.
        import: String,
        /// What the operator could configure, if anything.
        hint: &'static str,
    },
    /// The component declares more than the limits allow.
    #[error("the component declares {what} {declared}, the limit is {limit}")]
    Oversized {
        /// What is too large.
        what: &'static str,
        /// How much it declares.
        declared: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// What the component says of itself contradicts the contract.
    #[error("the component's description is not acceptable: {0}")]
    Description(String),
    /// The plan for a tensor contradicts the contract.
    #[error("the component's plan for tensor {tensor} is not acceptable: {reason}")]
    Plan {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// The component gave the server a place for its data that is not in its memory, misaligned or taken.
    #[error("the component gave offset {offset} for {bytes} bytes: {reason}")]
    Offset {
        /// What `reserve` returned.
        offset: u32,
        /// How much was asked for.
        bytes: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The trial run at admission gave different results for the same inputs.
    #[error("the component gave different results in two identical trial runs; an optimizer must be deterministic")]
    NotDeterministic,
    /// A tensor's results depended on what else was in its instance.
    #[error(
        "tensor {tensor} ended differently beside another tensor than alone; what an optimizer does to a tensor may depend \
         on nothing but that tensor and its round"
    )]
    Entangled {
        /// The tensor of the trial.
        tensor: String,
    },
    /// A slice is too large for any instance.
    #[error(
        "a slice of {bytes} bytes does not fit an instance of {limit} bytes; raise sandbox.limits.instance_memory_bytes"
    )]
    SliceTooLarge {
        /// What the slice needs.
        bytes: u64,
        /// What an instance may have.
        limit: u64,
    },
    /// Planning and binding use more fuel than all calls of a preparation have together.
    #[error(
        "planning and binding used up sandbox.limits.preparation_fuel = {limit}; the optimizer does too much in `plan` \
         or `bind` for a model of this size"
    )]
    PreparationFuel {
        /// What they have.
        limit: u64,
    },
    /// Planning and binding take longer than a preparation may.
    #[error(
        "planning and binding did not end within sandbox.limits.preparation_deadline_milliseconds = {milliseconds}; \
         raise it where the model is large or the machine slow"
    )]
    PreparationTime {
        /// What they have.
        milliseconds: u64,
    },
    /// A call failed.
    #[error("{0}")]
    Call(#[from] CallError),
    /// A step failed in the trial run.
    #[error("trial run: {0}")]
    Trial(StepError),
    /// What was to be read or taken over is not what was left there.
    #[error("{0}")]
    Tampered(Box<Tampering>),
}

impl SandboxError {
    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Engine(_) | Self::Compiler(_) => Fault::Server,
            Self::LimitOutOfRange { .. }
            | Self::SliceTooLarge { .. }
            | Self::PreparationTime { .. }
            | Self::CompilerKilled(_) => Fault::Operator,
            Self::Call(error) => error.fault(),
            Self::Trial(error) => error.fault(),
            _ => Fault::Publisher,
        }
    }
}

/// Why a step failed. The slice is as it was before.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum StepError {
    /// A call into the component failed.
    #[error("{0}")]
    Call(#[from] CallError),
    /// The gradient to step with holds a NaN or an infinity: finite gradients whose sum is not.
    #[error("the aggregated gradient is {value} at element {index} of the slice; the workers' gradients are too large")]
    GradientNotFinite {
        /// Index within the slice (or within the rows that are touched).
        index: u64,
        /// The value.
        value: f32,
    },
    /// The optimizer wrote a NaN or an infinity into the parameters, a slot or an accumulator.
    #[error("the optimizer made {what} {index} of the slice {value}")]
    NotFinite {
        /// `parameter`, or the slot's name.
        what: String,
        /// Index within the slice.
        index: u64,
        /// The value.
        value: f64,
    },
    /// The optimizer has written where it had no business.
    #[error("{0}")]
    Tampered(Box<Tampering>),
    /// The instance has ended between two phases.
    #[error("the optimizer failed for another key of the same instance in the middle of this round")]
    Interrupted,
    /// The instance had failed before and could not be set up again.
    #[error("the optimizer's instance could not be set up again after a failure: {0}")]
    NotRevived(Box<SandboxError>),
}

impl StepError {
    /// An instance could not be set up again, or is not as the server has set it up.
    pub(crate) fn not_revived(error: SandboxError) -> Self {
        Self::NotRevived(Box::new(error))
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Call(error) => error.fault(),
            Self::GradientNotFinite { .. } => Fault::Worker,
            Self::NotFinite { .. } | Self::Tampered(_) | Self::Interrupted => Fault::Publisher,
            Self::NotRevived(error) => error.fault(),
        }
    }
}

impl From<Tampering> for StepError {
    fn from(tampering: Tampering) -> Self {
        Self::Tampered(Box::new(tampering))
    }
}

impl From<Tampering> for SandboxError {
    fn from(tampering: Tampering) -> Self {
        Self::Tampered(Box::new(tampering))
    }
}

impl From<NotInMemory> for SandboxError {
    fn from(_: NotInMemory) -> Self {
        Self::Engine("a slice is no longer within its instance's memory".into())
    }
}

impl From<NotInMemory> for StepError {
    fn from(error: NotInMemory) -> Self {
        Self::not_revived(error.into())
    }
}

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
    fn fault(&self) -> Fault {
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

/// An error with its causes on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a wasmtime::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, cause) in self.0.chain().enumerate() {
            if position > 0 {
                formatter.write_str(": ")?;
            }
            write!(formatter, "{cause}")?;
        }
        Ok(())
    }
}
