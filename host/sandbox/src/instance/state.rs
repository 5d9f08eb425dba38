//! What the host keeps for a component's store.

use std::time::Instant;

use wasmtime_wasi::{WasiCtxView, WasiView};

use super::engine::Metering;
use super::limiter::AggregateLimiter;
use super::memory::CallMemory;
use super::wasi::EmptyWasi;

/// What the host keeps for a store.
pub(crate) struct HostState {
    pub(super) limiter: AggregateLimiter,
    /// Only for components that import WASI.
    pub(super) wasi: Option<EmptyWasi>,
    /// What calls are bounded by.
    pub(super) metering: Metering,
    /// When the call under way must end, for the server's functions that the component calls: wasmtime compares the epoch
    /// only in the component's own code. `None` where calls have no deadline.
    pub(super) deadline: Option<Instant>,
    /// The instance's memory, for the server's functions that the component calls; there once it is instantiated.
    pub(super) memory: Option<CallMemory>,
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // Made on first use: only components that were linked with WASI get here.
        self.wasi.get_or_insert_with(EmptyWasi::new).view()
    }
}
