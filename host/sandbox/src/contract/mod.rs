//! The contract between optimizers and the server as data: what a component declares, checked, and what it is told. Nothing
//! here runs a component.

pub(crate) mod accumulators;
pub(crate) mod bindings;
pub(crate) mod context;
pub(crate) mod declarations;
pub(crate) mod description;
pub(crate) mod geometry;
pub(crate) mod plan;
pub(crate) mod settings;
pub(crate) mod statistics;
pub(crate) mod tensor;
pub(crate) mod text;
