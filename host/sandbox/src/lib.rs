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

mod accumulate;
mod admission;
mod admitted;
mod allow_list;
mod cache;
mod compiler;
mod component;
mod context;
mod contract;
mod declarations;
mod description;
mod engine;
mod error;
mod failure;
mod finite;
mod fuel;
mod fuzz;
mod geometry;
mod house;
mod instance;
mod layout;
mod limiter;
mod limits;
mod linear_algebra;
mod local;
mod memory;
mod native;
mod plan;
mod pool;
mod preparation;
mod report;
mod round;
mod seal;
mod sealed;
mod settings;
mod state;
mod statistics;
mod step;
mod tampering;
mod text;
mod trial;
mod undo;
mod wasi;

pub use accumulate::{Accumulators, Contributions};
pub use admission::{Admission, Origin};
pub use admitted::AdmittedComponent;
#[doc(hidden)]
pub use allow_list::fuzz_admission;
#[doc(hidden)]
pub use cache::fuzz_cache_entry;
pub use cache::{CacheError, CompileCache, DEFAULT_CACHE_BYTES, DEFAULT_CACHE_ENTRIES};
pub use compiler::{
    Broker, BrokerError, Compiler, CompilerLimits, Confinement, DEFAULT_COMPILER_CODE_BYTES,
    DEFAULT_COMPILER_DEADLINE_MILLISECONDS, DEFAULT_COMPILER_MEMORY_BYTES, DEFAULT_COMPILER_PROCESSOR_SECONDS,
    MIN_COMPILER_MEMORY_BYTES, compile_process,
};
pub use component::Sandbox;
pub use context::StepContext;
pub use declarations::{Accumulator, Combination, Contributor, Extent, Granularity, Initial, Scope, Slot, SlotType};
pub use description::{Description, Domain, Hyperparameter, NumberRange};
pub use engine::Metering;
pub use error::{
    CallError, CallFailure, CompileLimit, Fault, Forbidden, Found, Miss, Place, ProductError, SandboxError, StepError,
    Tampering,
};
pub use fuel::FuelModel;
pub use fuzz::{fuzz_offsets, fuzz_plan};
pub use geometry::Geometry;
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
pub use plan::{Phase, Plan, TensorDescription};
pub use pool::{InstancePool, SliceId};
pub use preparation::Preparation;
pub use round::{Aggregate, Exchange};
pub use settings::{Settings, SettingsError};
pub use step::GradientSource;
pub use undo::Former;
