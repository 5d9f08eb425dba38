//! WASI for components that import it and operators who allow that: everything is there, nothing is granted.

use std::time::Duration;

use crate::limits::WASI_RESOURCES;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// Packages whose interfaces may be imported. Sockets and HTTP are not among them.
pub(crate) const PACKAGES: [&str; 5] = ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/"];

/// Functions that would let a component sleep outside the reach of fuel and deadline.
const WAITING: [(&str, &str); 4] = [
    ("wasi:clocks/monotonic-clock", "subscribe-duration"),
    ("wasi:clocks/monotonic-clock", "subscribe-instant"),
    ("wasi:io/poll", "poll"),
    ("wasi:io/poll", "[method]pollable.block"),
];

/// The version of WASI that wasmtime's linker defines interfaces under.
const VERSION: &str = "0.2.12";

/// What an instance may write to standard error in its life, in bytes: an optimizer is no logger. Writing more fails.
const STANDARD_ERROR_BYTES: usize = 16 << 10;

/// The state of an instance's WASI.
pub(crate) struct EmptyWasi {
    context: WasiCtx,
    table: ResourceTable,
    standard_error: MemoryOutputPipe,
    logged: usize,
}

impl EmptyWasi {
    /// Without files, environment, arguments, network, time or entropy.
    pub(crate) fn new() -> Self {
        let standard_error = MemoryOutputPipe::new(STANDARD_ERROR_BYTES);
        let context = WasiCtxBuilder::new()
            .stderr(standard_error.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .wall_clock(Stopped)
            .monotonic_clock(Stopped)
            .secure_random(Deterministic::new(vec![0]))
            .insecure_random(Deterministic::new(vec![0]))
            .insecure_random_seed(0)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(WASI_RESOURCES);
        Self { context, table, standard_error, logged: 0 }
    }

    pub(crate) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.context, table: &mut self.table }
    }

    /// Logs what was written to standard error since the last time.
    pub(crate) fn log(&mut self, optimizer: &str) {
        let written = self.standard_error.contents();
        for line in String::from_utf8_lossy(&written[self.logged..]).lines() {
            tracing::info!(optimizer, line = %line.escape_debug(), "optimizer wrote to standard error");
        }
        self.logged = written.len();
    }
}

/// Adds the interfaces to a linker, with everything that waits replaced by a trap.
pub(crate) fn add_to_linker<T: WasiView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    for (interface, function) in WAITING {
        linker.instance(&format!("{interface}@{VERSION}"))?.func_new(function, move |_, _, _, _| {
            Err(wasmtime::Error::msg(format!("{interface}.{function}: an optimizer may not wait")))
        })?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// A clock that stands at zero.
struct Stopped;

impl HostWallClock for Stopped {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Stopped {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}
