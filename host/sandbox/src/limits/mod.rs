//! What an optimizer may use, and why that much.

pub(crate) mod component;
mod features;

use serde::{Deserialize, Serialize};

pub(crate) use component::{ComponentLimits, Structure};
pub(crate) use features::FEATURES;

/// Longest wall-clock time of one call into a component, in milliseconds. A call handles at most one block, which
/// takes well under a millisecond; two seconds leave room for a machine that is busy with other things.
pub const DEFAULT_CALL_DEADLINE_MILLISECONDS: u64 = 2_000;

/// Longest wall-clock time of one call that visits a whole tensor, in milliseconds: matrix methods on large matrices
/// take seconds.
pub const DEFAULT_WHOLE_TENSOR_DEADLINE_MILLISECONDS: u64 = 60_000;

/// Fuel a step may use for each element, in the trial run and ever after. AdamW uses about 8; matrix methods that a component
/// computes by itself reach hundreds.
pub const DEFAULT_FUEL_PER_ELEMENT: u64 = 2_000;

/// Fuel for calls whose work does not grow with the tensor (`describe`, `plan`, `bind`, `begin`), and the part of a
/// step's budget that does not either. About 10 ms.
pub const DEFAULT_CALL_FUEL: u64 = 10_000_000;

/// Fuel of all calls that plan and bind for one deployment, or for one new key, together. Our own optimizers use some
/// thousand units for each call, so a model of 8192 tensors stays far below. About four seconds of one processor core.
pub const DEFAULT_PREPARATION_FUEL: u64 = 4_000_000_000;

/// Longest wall-clock time to plan and bind for one deployment, or for one new key, in milliseconds. Most of it is the
/// kernel's, for fresh memory: ten gigabytes take some ten seconds, and longer on a machine that is busy training.
pub const DEFAULT_PREPARATION_DEADLINE_MILLISECONDS: u64 = 120_000;

/// Linear memory of one instance: all that a 32-bit memory has, less one page. A shard opens another instance when its
/// slices no longer fit.
pub const DEFAULT_INSTANCE_MEMORY_BYTES: u64 = (4 << 30) - (64 << 10);

/// Memory an instance may hold beyond what the server placed in it: code tables, stack, allocator, per-slice records.
pub const DEFAULT_GUEST_OVERHEAD_BYTES: u64 = 64 << 20;

/// Linear memory of all instances together. Large enough for a billion parameters with AdamW; lower it to leave
/// memory for the worker's gradients on small machines.
pub const DEFAULT_TOTAL_MEMORY_BYTES: u64 = 64 << 30;

/// Elements of all tables of an instance together: indirect calls of a Rust component need a few hundred.
pub const DEFAULT_TABLE_ELEMENTS: u64 = 64 << 10;

/// WebAssembly stack, in bytes. Optimizers do not recurse; this is half of wasmtime's default.
pub const DEFAULT_STACK_BYTES: u64 = 256 << 10;

/// The largest WebAssembly stack that can be configured. It lies on the stack of the thread that runs the component, of
/// which Rust's threads have 2 MiB; beyond it there would be no error but a crash.
pub const MAX_STACK_BYTES: u64 = 1 << 20;

/// The largest block that can be configured: 64 MiB of gradient, far more than any cache holds.
pub const MAX_BLOCK_ELEMENTS: u64 = 16 << 20;

/// Elements handed to a component in one call. Large blocks hide the cost of the call; beyond 256 Ki (1 MiB of
/// gradient) nothing was gained, and the gradient's scratch memory grows with it. A multiple of [`CHUNK_ELEMENTS`].
pub const DEFAULT_BLOCK_ELEMENTS: u32 = 256 << 10;

/// Bytes of arguments and results that may cross between server and component in one call: descriptions, plans and
/// error texts. (Tensors do not cross.)
pub const CROSSING_BYTES: usize = 1 << 20;

/// Handles a component with WASI may hold at once: a few streams.
pub const WASI_RESOURCES: usize = 64;

/// Core instances within a component: its module and the few shims that adapters bring.
pub const CORE_INSTANCES: usize = 16;

/// Tables within a component.
pub const TABLES: usize = 8;

/// The granularity of slices and blocks (see the contract), in elements.
pub const CHUNK_ELEMENTS: u32 = 4096;

/// Longest text of a component that is kept, in bytes: names, documentation, errors. What is longer is cut.
pub const TEXT_BYTES: usize = 4096;

/// Longest name of a slot or an accumulator, in bytes: each key brings its accumulators' names to where keys meet.
pub const DECLARATION_NAME_BYTES: usize = 128;

/// Hyperparameters, slots or phases a component may declare.
pub const DECLARATIONS: usize = 64;

/// Limits of a sandbox. Every field has a default; see the constants of this module for the reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall-clock time of one call, in milliseconds.
    pub call_deadline_milliseconds: u64,
    /// Wall-clock time of one call that visits a whole tensor, in milliseconds.
    pub whole_tensor_deadline_milliseconds: u64,
    /// Fuel for each element of a step, in the trial run and ever after. Later steps may use four times what the trial
    /// used, and never more than this.
    pub fuel_per_element: u64,
    /// Fuel for calls whose work does not grow with the tensor.
    pub call_fuel: u64,
    /// Fuel of all calls that plan and bind for one deployment or one new key.
    pub preparation_fuel: u64,
    /// Wall-clock time to plan and bind for one deployment or one new key, in milliseconds.
    pub preparation_deadline_milliseconds: u64,
    /// Linear memory of one instance, in bytes.
    pub instance_memory_bytes: u64,
    /// Linear memory of an instance beyond what the server placed in it, in bytes.
    pub guest_overhead_bytes: u64,
    /// Linear memory of all instances together, in bytes.
    pub total_memory_bytes: u64,
    /// Elements of all tables of an instance.
    pub table_elements: u64,
    /// WebAssembly stack, in bytes.
    pub stack_bytes: u64,
    /// Elements in a block; rounded up to a multiple of [`CHUNK_ELEMENTS`].
    pub block_elements: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            call_deadline_milliseconds: DEFAULT_CALL_DEADLINE_MILLISECONDS,
            whole_tensor_deadline_milliseconds: DEFAULT_WHOLE_TENSOR_DEADLINE_MILLISECONDS,
            fuel_per_element: DEFAULT_FUEL_PER_ELEMENT,
            call_fuel: DEFAULT_CALL_FUEL,
            preparation_fuel: DEFAULT_PREPARATION_FUEL,
            preparation_deadline_milliseconds: DEFAULT_PREPARATION_DEADLINE_MILLISECONDS,
            instance_memory_bytes: DEFAULT_INSTANCE_MEMORY_BYTES,
            guest_overhead_bytes: DEFAULT_GUEST_OVERHEAD_BYTES,
            total_memory_bytes: DEFAULT_TOTAL_MEMORY_BYTES,
            table_elements: DEFAULT_TABLE_ELEMENTS,
            stack_bytes: DEFAULT_STACK_BYTES,
            block_elements: DEFAULT_BLOCK_ELEMENTS,
        }
    }
}

impl Limits {
    /// A limit that is out of range, with its value and the greatest one allowed.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, u64, u64)> {
        [
            ("call_deadline_milliseconds", self.call_deadline_milliseconds, u64::MAX),
            ("whole_tensor_deadline_milliseconds", self.whole_tensor_deadline_milliseconds, u64::MAX),
            ("fuel_per_element", self.fuel_per_element, u64::MAX),
            ("call_fuel", self.call_fuel, u64::MAX),
            ("preparation_fuel", self.preparation_fuel, u64::MAX),
            ("preparation_deadline_milliseconds", self.preparation_deadline_milliseconds, u64::MAX),
            ("instance_memory_bytes", self.instance_memory_bytes, DEFAULT_INSTANCE_MEMORY_BYTES),
            ("guest_overhead_bytes", self.guest_overhead_bytes, DEFAULT_INSTANCE_MEMORY_BYTES),
            ("total_memory_bytes", self.total_memory_bytes, u64::MAX),
            ("table_elements", self.table_elements, u64::MAX),
            ("stack_bytes", self.stack_bytes, MAX_STACK_BYTES),
            ("block_elements", self.block_elements.into(), MAX_BLOCK_ELEMENTS),
        ]
        .into_iter()
        .find(|(_, value, greatest)| !(1..=*greatest).contains(value))
    }
}

/// What to do with components that import WASI interfaces (those built for `wasm32-wasip2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WasiPolicy {
    /// Refuse them.
    #[default]
    Refuse,
    /// Give them a WASI in which there is nothing: no files, environment, arguments, sockets, waiting, real clock or
    /// entropy. What they write to standard error is logged.
    Empty,
}

/// Configuration of a [`Sandbox`](crate::Sandbox).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// Limits for every component that runs.
    pub limits: Limits,
    /// What a component may consist of.
    pub component: ComponentLimits,
    /// Whether components may import WASI.
    pub wasi: WasiPolicy,
}
