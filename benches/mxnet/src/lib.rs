//! Stepbox beside the server it replaces: whole rounds of both, in turn, with processes as an operator would start them.
//!
//! `README.md` in this folder says how it measures and what it does not say.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cell;
pub mod cluster;
pub mod measurement;
mod mxnet;
pub mod process;
pub mod report;
mod stepbox;
pub mod work;
pub mod worker;

pub use mxnet::MxNet;
pub use stepbox::Stepbox;
