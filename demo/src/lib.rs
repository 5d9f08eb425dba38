//! A small network that learns to read digits, trained by worker processes through a Stepbox server.
//!
//! `digits-worker` is one worker: a real program on a real client, to be read as an example of how to train with
//! Stepbox. `digits-demo` prepares everything, starts a server and four workers, attacks the server afterwards, and
//! reports.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod dataset;
pub mod demonstration;
pub mod digest;
pub mod mlp;
pub mod random;
pub mod report;
pub mod training;
