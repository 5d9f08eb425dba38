//! The engine: wasmtime's settings, with the reason for each.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Config, Engine, EngineWeak, OptLevel, Strategy};

use crate::error::{Chain, SandboxError};
use crate::instance::memory::HostMemoryCreator;
use crate::limits::{FEATURES, Limits};

/// How often the deadline of a running call is looked at.
pub(crate) const EPOCH: Duration = Duration::from_millis(10);

/// Address space reserved for each linear memory: everything a 32-bit offset can name, so that accesses need no
/// bounds check and memories never move.
const RESERVATION_BYTES: u64 = 4 << 30;

/// Unmapped space behind the reservation, so that an offset plus a constant displacement needs no check either.
const GUARD_BYTES: u64 = 32 << 20;

/// What bounds a running call. A server always has both bounds; this is for measurements of what each of them costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metering {
    /// Nothing: a component that does not return is never stopped.
    Off,
    /// Fuel alone, which is counted in the component's own code.
    Fuel,
    /// The deadline alone, which is compared in the component's own code.
    Epochs,
    /// Both.
    #[default]
    FuelAndEpochs,
}

impl Metering {
    pub(crate) fn counts_fuel(self) -> bool {
        matches!(self, Self::Fuel | Self::FuelAndEpochs)
    }

    pub(crate) fn has_epochs(self) -> bool {
        matches!(self, Self::Epochs | Self::FuelAndEpochs)
    }
}

/// The engine for these limits. One thread per engine advances the epoch; it ends with the engine.
pub(crate) fn engine(limits: &Limits, metering: Metering) -> Result<Engine, SandboxError> {
    let fail = |error: &wasmtime::Error| SandboxError::Engine(Chain(error).to_string());
    let engine = Engine::new(&config(limits, metering)).map_err(|error| fail(&error))?;
    let weak = engine.weak();
    std::thread::Builder::new()
        .name("stepbox-epoch".into())
        .spawn(move || tick(&weak))
        .map_err(|error| SandboxError::Engine(format!("cannot start the epoch thread: {error}")))?;
    Ok(engine)
}

/// An engine that compiles as [`engine`]'s, for a process that runs nothing.
pub(crate) fn compiler_engine(limits: &Limits, metering: Metering) -> wasmtime::Result<Engine> {
    Engine::new(&config(limits, metering))
}

fn tick(engine: &EngineWeak) {
    loop {
        std::thread::sleep(EPOCH);
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}

fn config(limits: &Limits, metering: Metering) -> Config {
    let mut config = Config::new();

    // Cranelift alone: wasmtime's baseline compiler has had sandbox escapes.
    config.strategy(Strategy::Cranelift);
    config.cranelift_opt_level(OptLevel::Speed);

    // Bounds: fuel is deterministic, the epoch bounds wall-clock time whatever fuel is worth on this machine.
    config.consume_fuel(metering.counts_fuel());
    config.epoch_interruption(metering.has_epochs());
    config.max_wasm_stack(limits.stack_bytes as usize);

    // Memories come from the host, which must know where they are. Copy-on-write initialisation would bypass that.
    config.with_host_memory(Arc::new(HostMemoryCreator));
    config.memory_init_cow(false);
    config.memory_reservation(RESERVATION_BYTES);
    config.memory_reservation_for_growth(0);
    config.memory_guard_size(GUARD_BYTES);
    config.memory_may_move(false);

    // Traps name the function they happened in; source lines stay out.
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);

    // Exactly what has been checked before.
    config.wasm_features(FEATURES, true);
    config.wasm_features(FEATURES.complement(), false);
    config.gc_support(false);

    // NaN payloads are not canonicalised: it costs an instruction for every SIMD operation, and NaN never leaves the
    // sandbox, since outputs are checked to be finite.
    config.cranelift_nan_canonicalization(false);
    config
}
