//! Measurements whose figures the project claims: each runs its baseline interleaved with it, in the same process.
//!
//! `stepbox bench` runs them; `docs/benchmarks` has their method and figures. A measurement returns [`Findings`]: [`Row`]s,
//! notes and charts.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod abuse;
pub mod admission;
mod bandwidth;
mod error;
mod findings;
pub mod job;
mod machine;
pub mod native;
pub mod overhead;
pub mod reduce;
pub mod report;
pub mod rounds;
mod row;
pub mod rows;
mod server;
mod spread;
pub mod turns;
pub mod update;
pub mod wire;

pub use error::BenchError;
pub use findings::{Components, Effort, Findings, count};
pub use machine::Machine;
pub use row::{Goal, Row};
pub use spread::Spread;
