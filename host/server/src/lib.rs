//! The Stepbox parameter server.
//!
//! Workers push gradients and pull weights over TLS with certificates on both sides; an update runs when every worker's
//! gradient of a round has come, in an optimizer that is a signed component in a sandbox.
//!
//! The modules are layers. Each uses those below it and none above it, which a test checks (`tests/tests/layers.rs`);
//! modules of one layer do not use each other.
//!
//! | layer | what it holds |
//! |---|---|
//! | `listen` | the server from start to end: setting up jobs, accepting connections, reading files again |
//! | `session` | one connection: frames, requests, answers, the worker that it speaks for |
//! | `report` | the status, lists page by page, the digest of all weights |
//! | `deploy` | new optimizers, keys and learning rates: checks, preparation, submissions, revocation |
//! | `round` | one round of one key, its publication, migration to another optimizer, recovery after a failure |
//! | `job` | what all connections of a job share: workers, barriers, rendezvous, turns, attribution of failed rounds |
//! | `component` | the archive of signed components, the version ledger, the trust file |
//! | `model` | all keys: their rounds, published weights and placement; checks of what is pushed |
//! | `shard` | shard threads, and on each of them an executor for each optimizer; merged sparse gradients |
//! | `optimizer` | a deployed component with its plans, groups, learning rates and revocation; memory footprint |
//! | `tensor` | tensors as plain data: slices, weights, gradients |
//! | `audit` | security events for the audit log |
//! | `limiting` | limits on rates, counts and bytes, by address and by identity |
//! | `peer` | TLS, certificates, private keys, and the rights of identities |
//! | `config` | all sections of the configuration with their defaults, the table of limits, the division among jobs |
//! | `logging` | the state of the process's own log, and throttling of log lines |
//! | `names` | identities, SPIFFE IDs, numbers of workers, tensors and optimizers, refusals |
//!
//! # Locks
//!
//! Always taken in this order: `Job::structure`, a key's `turn`, `Workers::members`, then `Job::deployments` or the
//! barrier, then a key's state, then its buffers. The first two are held across waiting (they order whole operations), the
//! others never.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod audit;
mod component;
mod config;
mod deploy;
mod job;
mod limiting;
mod listen;
mod logging;
mod model;
mod names;
mod optimizer;
mod peer;
mod report;
mod round;
mod session;
mod shard;
mod tensor;

pub use component::MAX_PREVIOUS_DEPLOYMENTS;
pub use config::*;
pub use listen::{Reloader, Server, ServerError, StateError};
pub use logging::LogHealth;
pub use names::{
    Identity, IdentityError, MAX_IDENTITY_CHARACTERS, MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeIdError,
};
pub use optimizer::{
    Footprint, MAX_GROUP_NAME_BYTES, MAX_GROUP_PATTERNS, MAX_GROUPS, MAX_PATTERN_BYTES, MAX_SCHEDULES,
};
pub use peer::TlsError;
pub use stepbox_audit::AuditError;
pub use stepbox_sandbox::SandboxConfig;
pub use stepbox_wire::Protection;
pub use tensor::{MAX_SLICE_ELEMENTS, MIN_SPREAD_ELEMENTS};
