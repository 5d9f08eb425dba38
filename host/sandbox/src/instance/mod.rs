//! One running component: its store, its memory, and calls into it with a budget for each.

pub(crate) mod admission_record;
pub(crate) mod component;
pub(crate) mod engine;
pub(crate) mod failure;
pub(crate) mod fuel;
pub(crate) mod limiter;
mod linear_algebra;
pub(crate) mod linked;
pub(crate) mod memory;
pub(crate) mod preparation;
mod state;
pub(crate) mod wasi;

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::Store;

use crate::contract::bindings::{OptimizerComponent, types};
use crate::contract::text::shortened;
use crate::error::{CallError, CallFailure, SandboxError};
use crate::instance::engine::EPOCH;
use crate::instance::failure::classified;
use crate::instance::limiter::{AggregateLimiter, Charge};
use crate::instance::linked::Linked;
use crate::instance::memory::{Guest, GuestMemory};
use crate::instance::preparation::{CallBudget, Preparation};
use crate::instance::state::HostState;
use crate::instance::wasi::EmptyWasi;
use crate::limits::{CROSSING_BYTES, Limits};

/// Fuel for each byte of a reservation: the guest clears it, at one unit a byte, and may move its allocator's records.
const RESERVE_FUEL_PER_BYTE: u64 = 4;

/// Time for each MiB of a reservation, in milliseconds: the kernel hands out fresh pages, at a few GiB a second on a quiet
/// machine.
const RESERVE_MILLISECONDS_PER_MEBIBYTE: u64 = 8;

/// A running component and the memory it lives in. A call that traps ends it: then only its memory is of use, see
/// [`Instance::is_alive`].
pub(crate) struct Instance {
    name: String,
    guest: Guest<HostState>,
    component: OptimizerComponent,
    /// For as long as the memory is there.
    charge: Arc<Charge>,
    /// Of calls whose work does not grow with the tensor.
    budget: CallBudget,
    /// Calls so far: what the memory holds changes with calls alone.
    calls: u64,
}

impl Instance {
    /// Instantiates. What the component runs at that moment (start functions) has the budget of one call.
    pub(crate) fn new(linked: &Linked, name: &str, charge: Arc<Charge>, limits: &Limits) -> Result<Self, SandboxError> {
        let budget = CallBudget { fuel: limits.call_fuel, deadline_milliseconds: limits.call_deadline_milliseconds };
        let failed = |error| classified("instantiate", &error, budget);
        let limiter = AggregateLimiter::new(Arc::clone(&charge), limits.guest_overhead_bytes, limits.table_elements);
        let state = HostState {
            limiter,
            wasi: linked.with_wasi.then(EmptyWasi::new),
            metering: linked.metering,
            deadline: None,
            memory: None,
        };
        let mut store = Store::new(&linked.engine, state);
        store.limiter(|state| &mut state.limiter);
        prepare(&mut store, budget).map_err(failed)?;
        let guest = Guest::new(store, &linked.component).map_err(failed)?;
        let (mut guest, instance) =
            guest.ok_or_else(|| SandboxError::Invalid("it has no linear memory, or several".into()))?;
        let memory = guest.call_memory();
        let Some(store) = guest.store() else { unreachable!("nothing has been evicted") };
        store.data_mut().memory = Some(memory);
        let component = OptimizerComponent::new(store, &instance).map_err(failed)?;
        Ok(Self { name: name.into(), guest, component, charge, budget, calls: 0 })
    }

    /// What its memory takes of the sandbox's budget.
    pub(crate) fn charge(&self) -> Arc<Charge> {
        Arc::clone(&self.charge)
    }

    /// Whether it can still be called.
    pub(crate) fn is_alive(&self) -> bool {
        self.guest.has_store()
    }

    /// Ends it. Its memory can still be read.
    pub(crate) fn retire(&mut self) {
        self.guest.drop_store();
    }

    /// How often it was called.
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    /// The linear memory, between calls.
    pub(crate) fn memory(&self) -> &GuestMemory {
        self.guest.memory()
    }

    /// The linear memory, to be written between calls.
    pub(crate) fn memory_mut(&mut self) -> &mut GuestMemory {
        self.guest.memory_mut()
    }

    /// The contract's `describe`.
    pub(crate) fn describe(&mut self) -> Result<types::Description, CallError> {
        self.call("describe", self.budget, |component, store| {
            component.stepbox_optimizer_optimizer().call_describe(store).map(Ok)
        })
    }

    /// The contract's `plan`.
    pub(crate) fn plan(
        &mut self,
        hyperparameters: &[types::Value],
        tensor: &types::Tensor,
        preparation: &Preparation,
    ) -> Result<types::TensorPlan, SandboxError> {
        self.prepare(preparation, self.budget, 0, "plan", |component, store| {
            component.stepbox_optimizer_optimizer().call_plan(&mut *store, hyperparameters, tensor)
        })
    }

    /// The contract's `reserve`, after which the instance may hold `memory_allowed` bytes. The offset is not checked.
    pub(crate) fn reserve(
        &mut self,
        bytes: u32,
        memory_allowed: u64,
        preparation: &Preparation,
    ) -> Result<u32, SandboxError> {
        let clearing = RESERVE_FUEL_PER_BYTE * u64::from(bytes);
        let more = (u64::from(bytes) >> 20) * RESERVE_MILLISECONDS_PER_MEBIBYTE;
        let own = CallBudget {
            fuel: self.budget.fuel.saturating_add(clearing),
            deadline_milliseconds: self.budget.deadline_milliseconds.saturating_add(more),
        };
        self.prepare(preparation, own, clearing, "reserve", |component, store| {
            store.data_mut().limiter.allow_memory(memory_allowed);
            component.stepbox_optimizer_optimizer().call_reserve(&mut *store, bytes)
        })
    }

    /// The contract's `bind`.
    pub(crate) fn bind(
        &mut self,
        slice: &types::Slice,
        hyperparameters: &[types::Value],
        preparation: &Preparation,
    ) -> Result<u32, SandboxError> {
        self.prepare(preparation, self.budget, 0, "bind", |component, store| {
            component.stepbox_optimizer_optimizer().call_bind(&mut *store, slice, hyperparameters)
        })
    }

    /// The contract's `begin`, with fuel of its own.
    pub(crate) fn begin(
        &mut self,
        slice: u32,
        phase: u32,
        context: types::Context,
        fuel: u64,
    ) -> Result<(), CallError> {
        self.call("begin", CallBudget { fuel, ..self.budget }, |component, store| {
            component.stepbox_optimizer_optimizer().call_begin(&mut *store, slice, phase, context)
        })
    }

    /// The contract's `step`, with a budget of its own.
    pub(crate) fn step(
        &mut self,
        slice: u32,
        phase: u32,
        block: types::Block,
        budget: CallBudget,
    ) -> Result<(), CallError> {
        self.call("step", budget, |component, store| {
            component.stepbox_optimizer_optimizer().call_step(&mut *store, slice, phase, block)
        })
    }

    /// What the last call, which had this budget, used of its fuel; nothing where fuel is not counted.
    pub(crate) fn fuel_used(&mut self, budget: CallBudget) -> u64 {
        match self.guest.store() {
            Some(store) if !store.data().metering.counts_fuel() => 0,
            store => budget.fuel - store.and_then(|store| store.get_fuel().ok()).unwrap_or(0),
        }
    }

    /// A call that is part of a preparation; see [`Preparation::call`].
    fn prepare<T>(
        &mut self,
        preparation: &Preparation,
        own: CallBudget,
        proportional: u64,
        function: &'static str,
        call: impl FnOnce(&OptimizerComponent, &mut Store<HostState>) -> wasmtime::Result<Result<T, String>>,
    ) -> Result<T, SandboxError> {
        preparation.call(own, proportional, |budget| {
            let outcome = self.call(function, budget, call);
            (outcome, self.fuel_used(budget))
        })
    }

    fn call<T>(
        &mut self,
        function: &'static str,
        budget: CallBudget,
        call: impl FnOnce(&OptimizerComponent, &mut Store<HostState>) -> wasmtime::Result<Result<T, String>>,
    ) -> Result<T, CallError> {
        self.calls += 1;
        let Some(store) = self.guest.store() else {
            return Err(CallError { function, failure: CallFailure::Other("the instance has failed before".into()) });
        };
        let result = prepare(&mut *store, budget)
            .and_then(|()| call(&self.component, store))
            .map_err(|error| classified(function, &error, budget));
        if let Some(wasi) = &mut store.data_mut().wasi {
            wasi.log(&self.name);
        }
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(text)) => Err(CallError { function, failure: CallFailure::Refused(shortened(text)) }),
            Err(error) => {
                // After a trap nothing is known of the guest's insides.
                self.guest.drop_store();
                Err(error)
            }
        }
    }
}

fn prepare(store: &mut Store<HostState>, budget: CallBudget) -> wasmtime::Result<()> {
    if store.data().metering.counts_fuel() {
        store.set_fuel(budget.fuel)?;
    }
    store.set_hostcall_fuel(CROSSING_BYTES);
    // One tick more: the current one may be about to end.
    store.set_epoch_deadline(budget.deadline_milliseconds.div_ceil(EPOCH.as_millis() as u64) + 1);
    if store.data().metering.has_epochs() {
        // A time that no clock can show is none.
        store.data_mut().deadline = Instant::now().checked_add(Duration::from_millis(budget.deadline_milliseconds));
    }
    Ok(())
}
