//! The sandbox that user-supplied optimizers run in.
//!
//! A component that arrives as bytes is *admitted* ([`Sandbox::admit`]): compiled, checked against the contract
//! (`wit/`), tried out. Only an [`AdmittedComponent`] can be run, in an [`InstancePool`]. Parameters and optimizer state
//! live in the components' linear memories, which the host allocates and so can address; gradients are written straight
//! into them, and calls carry offsets only.
//!
//! What a component can do is bounded in every direction: fuel and wall-clock time for each call, memory and tables for
//! each instance and all together, stack, imports, and what crosses the boundary ([`Limits`]). Every bound ends in an
//! error of its own ([`CallFailure`]), and a step that fails for whatever reason leaves its slice bit for bit as it was.
//! What a component writes outside the steps that it is given, anywhere in its memory, is found before it is used
//! ([`Tampering`]).
//!
//! A [`CompileCache`] keeps native code of admitted components on disk, authenticated, so that a restarted server is ready
//! in milliseconds.
//!
//! This crate knows nothing of networks, signatures or workers.

#![deny(missing_docs)]
#![deny(unsafe_code)]

mod admission;
mod contract;
mod error;
mod fuzz;
mod instance;
mod limits;
mod local;
mod pool;
mod slice;

pub use admission::Sandbox;
#[doc(hidden)]
pub use admission::allow_list::fuzz_admission;
#[doc(hidden)]
pub use admission::cache::fuzz_cache_entry;
pub use admission::cache::{CacheError, CompileCache, DEFAULT_CACHE_BYTES, DEFAULT_CACHE_ENTRIES};
pub use admission::compiler::{
    Broker, BrokerError, Compiler, CompilerLimits, Confinement, DEFAULT_COMPILER_CODE_BYTES,
    DEFAULT_COMPILER_DEADLINE_MILLISECONDS, DEFAULT_COMPILER_MEMORY_BYTES, DEFAULT_COMPILER_PROCESSOR_SECONDS,
    MIN_COMPILER_MEMORY_BYTES, compile_process,
};
pub use contract::accumulators::{Accumulators, Contributions};
pub use contract::context::StepContext;
pub use contract::declarations::{
    Accumulator, Combination, Contributor, Extent, Granularity, Initial, Scope, Slot, SlotType,
};
pub use contract::description::{Description, Domain, Hyperparameter, NumberRange};
pub use contract::geometry::Geometry;
pub use contract::plan::{Phase, Plan};
pub use contract::settings::{Settings, SettingsError};
pub use contract::tensor::TensorDescription;
pub use error::{
    CallError, CallFailure, CompileLimit, Fault, Forbidden, Found, Miss, ProductError, SandboxError, StepError,
    TamperedPart, Tampering,
};
pub use fuzz::{fuzz_offsets, fuzz_plan};
pub use instance::admission_record::{Admission, Origin};
pub use instance::component::AdmittedComponent;
pub use instance::engine::Metering;
pub use instance::fuel::FuelModel;
pub use instance::preparation::Preparation;
pub use limits::component::*;
pub use limits::{
    CHUNK_ELEMENTS, CORE_INSTANCES, CROSSING_BYTES, DECLARATION_NAME_BYTES, DECLARATIONS, DEFAULT_BLOCK_ELEMENTS,
    DEFAULT_CALL_DEADLINE_MILLISECONDS, DEFAULT_CALL_FUEL, DEFAULT_FUEL_PER_ELEMENT, DEFAULT_GUEST_OVERHEAD_BYTES,
    DEFAULT_INSTANCE_MEMORY_BYTES, DEFAULT_PREPARATION_DEADLINE_MILLISECONDS, DEFAULT_PREPARATION_FUEL,
    DEFAULT_STACK_BYTES, DEFAULT_TABLE_ELEMENTS, DEFAULT_TOTAL_MEMORY_BYTES,
    DEFAULT_WHOLE_TENSOR_DEADLINE_MILLISECONDS, Limits, MAX_BLOCK_ELEMENTS, MAX_STACK_BYTES, SandboxConfig, TABLES,
    TEXT_BYTES, WASI_RESOURCES, WasiPolicy,
};
pub use local::{LocalTensor, LocalTraining};
pub use pool::InstancePool;
pub use pool::pass::GradientSource;
pub use pool::round::{Aggregate, Exchange};
pub use slice::SliceId;
pub use slice::undo::Former;
