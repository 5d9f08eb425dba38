//! Measurements whose figures the project claims: each runs its baseline interleaved with it, in the same process.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod job;
pub mod native;
pub mod admission;
mod row;
pub mod rows;
mod spread;
pub mod update;
pub mod wire;

pub use row::{Goal, Row};
pub use spread::Spread;
