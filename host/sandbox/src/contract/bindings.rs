//! Bindings of the contract, generated from `wit/v0.1`. The crate's other modules turn these types into checked ones.
#![allow(missing_docs)]

wasmtime::component::bindgen!({
    path: "../../wit/v0.1",
    world: "optimizer-component",
});

pub(crate) use stepbox::optimizer::{linear_algebra, types};

/// Name of the exported interface, with its version: how the server recognises a component of this contract.
pub(crate) const INTERFACE: &str = "stepbox:optimizer/optimizer@0.1.0";

/// Name of the interface that a component may import.
pub(crate) const LINEAR_ALGEBRA: &str = "stepbox:optimizer/linear-algebra@0.1.0";
