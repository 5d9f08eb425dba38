//! What a component imports, exports and declares, checked before anything of it runs.

use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::contract::bindings::{INTERFACE, LINEAR_ALGEBRA};
use crate::error::SandboxError;
use crate::instance::wasi;
use crate::limits::{Limits, WasiPolicy};

/// The imports, if all are on the allow-list.
pub(super) fn imports(imports: Vec<String>, policy: WasiPolicy) -> Result<Vec<String>, SandboxError> {
    for import in &imports {
        // The contract's own types are imported by name where a component uses them; they carry no code.
        let wasi = wasi::PACKAGES.iter().any(|package| import.starts_with(package));
        let hint = match (wasi, policy) {
            (true, WasiPolicy::Empty) => continue,
            (true, WasiPolicy::Refuse) => "; to allow components built for wasm32-wasip2, set sandbox.wasi = \"empty\"",
            (false, _) if import.starts_with("stepbox:optimizer/types@") || import == LINEAR_ALGEBRA => continue,
            (false, _) => "",
        };
        return Err(SandboxError::ForbiddenImport { import: import.clone(), hint });
    }
    let offers_something = |import: &String| !import.starts_with("stepbox:optimizer/types@");
    Ok(imports.into_iter().filter(offers_something).collect())
}

/// The component's resources, if they are within the limits.
pub(super) fn resources(component: &Component, limits: &Limits) -> Result<(), SandboxError> {
    let Some(resources) = component.resources_required() else {
        return Err(SandboxError::Invalid("it contains components of its own imports, whose size is unknown".into()));
    };
    let oversized = |what, declared: u64, limit: u64| {
        if declared > limit { Err(SandboxError::Oversized { what, declared, limit }) } else { Ok(()) }
    };
    oversized("a number of memories of", resources.num_memories.into(), 1)?;
    oversized("an initial memory of", resources.max_initial_memory_size.unwrap_or(0), limits.guest_overhead_bytes)?;
    oversized("an initial table of", resources.max_initial_table_size.unwrap_or(0), limits.table_elements)
}

/// The exports, if the contract's interface is among them.
pub(super) fn exports(component: &Component) -> Result<Vec<String>, SandboxError> {
    let types = component.component_type();
    let engine = component.engine();
    let exports: Vec<String> = types.exports(engine).map(|(name, _)| name.to_owned()).collect();
    let contract = types.get_export(engine, INTERFACE);
    if !matches!(contract.map(|export| export.ty), Some(ComponentItem::ComponentInstance(_))) {
        return Err(SandboxError::NoContract { expected: INTERFACE });
    }
    Ok(exports)
}
