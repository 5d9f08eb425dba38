//! Components whose imports are resolved.

use wasmtime::Engine;
use wasmtime::component::{InstancePre, Linker};

use super::engine::Metering;
use super::state::HostState;
use super::{linear_algebra, wasi};
use crate::contract::bindings::OptimizerComponentPre;

/// A component whose imports are resolved, ready to be instantiated any number of times.
#[derive(Clone)]
pub(crate) struct Linked {
    pub(super) engine: Engine,
    pub(super) component: InstancePre<HostState>,
    pub(super) with_wasi: bool,
    pub(super) metering: Metering,
}

impl Linked {
    /// Resolves the imports.
    pub(crate) fn new(
        component: &wasmtime::component::Component,
        with_wasi: bool,
        metering: Metering,
    ) -> wasmtime::Result<Self> {
        let engine = component.engine();
        let mut linker = Linker::<HostState>::new(engine);
        linear_algebra::add_to_linker(&mut linker)?;
        if with_wasi {
            wasi::add_to_linker(&mut linker)?;
        }
        let resolved = linker.instantiate_pre(component)?;
        // Checks that what the contract wants is exported, with the contract's types.
        OptimizerComponentPre::new(resolved.clone())?;
        Ok(Self { engine: engine.clone(), component: resolved, with_wasi, metering })
    }
}
