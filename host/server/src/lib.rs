//! The Stepbox parameter server.
//!
//! Workers push gradients and pull weights over TLS with certificates on both sides; an update runs when every worker's
//! gradient of a round has come, in an optimizer that is a signed component in a sandbox.
//!
//! The way of a gradient through this crate:
//!
//! | module | what it does |
//! |---|---|
//! | `server` | accepts connections, within limits |
//! | `gate` | how many, how often, how much: by address and by identity |
//! | `tls`, `identity`, `spiffe`, `access` | who it is and what it may do |
//! | `reload`, `standing` | what of that changes while the server runs and a connection lasts |
//! | `session` | frames of one connection; holds a request against key, type and round before its body is read |
//! | `jobs`, `settings` | which jobs there are, what each of them has, who is let into which |
//! | `job` | what all connections of a job share; waiting for other workers |
//! | `membership`, `barrier`, `rounds` | who is there and what has come: state machines without I/O or clock |
//! | `checks` | what is sent, held against its key |
//! | `gradient` | what has been pushed: whole tensors, rows, losses |
//! | `update` | one round of one key: all slices step, and all are kept or none |
//! | `shard` | the threads that own slices and the sandbox instances they live in |
//! | `deployment`, `move_over`, `creation` | optimizers and keys come, and fit each other; trust ends |
//! | `audit` | what is remembered of who did what |
//! | `groups` | which settings a tensor has |
//! | `schedule`, `rates`, `learning_rate` | the learning rate of a round, and who changes it |
//!
//! # Locks
//!
//! Always taken in this order: `Job::structure`, a key's `turn`, `Job::members`, then `Job::deployments` or the barrier,
//! then a key's state. The first two are held across waiting (they order whole operations), the others never.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod access;
mod attribution;
mod audit;
mod barrier;
mod cache;
mod checks;
mod component;
mod config;
mod creation;
mod cut;
mod deployment;
mod evaluation;
mod footprint;
mod fuzzing;
mod gate;
mod gradient;
mod groups;
mod identity;
mod job;
mod jobs;
mod key;
mod learning_rate;
mod limits;
mod log_health;
mod membership;
mod mend;
mod model;
mod move_over;
mod names;
mod optimizer;
mod own_certificate;
mod process;
mod published;
mod rates;
mod refusal;
mod reload;
mod rendezvous;
mod reserve;
mod rounds;
mod schedule;
mod secret_file;
mod server;
mod session;
mod settings;
mod shard;
mod sparse;
mod spiffe;
mod standing;
mod start;
mod state;
mod status;
mod tls;
mod update;
mod weights;
mod weights_digest;

pub use audit::{AuditConfig, DEFAULT_AUDIT_FILE_BYTES, DEFAULT_AUDIT_FILES, MAX_AUDIT_FILES, OnAuditFailure};
pub use cache::CacheConfig;
pub use component::MAX_PREVIOUS_DEPLOYMENTS;
pub use config::{
    AccessConfig, Aggregation, Config, ConfigError, DEFAULT_RECONNECT_GRACE_SECONDS, DEFAULT_RELOAD_SECONDS,
    DEFAULT_ROUND_TIMEOUT_SECONDS, DEFAULT_TRUST_RELOAD_SECONDS, EndMark, ExpiredLists, GradientType, Grant, JobConfig,
    MAX_GRANT_PATTERN_BYTES, MAX_GRANT_PATTERNS, MAX_GRANTS, MAX_SHARD_THREADS, MAX_WORKERS, OnRevocation, Right,
    Seconds, TlsConfig, TrustConfig,
};
pub use cut::{MAX_SLICE_ELEMENTS, MIN_SPREAD_ELEMENTS};
pub use footprint::Footprint;
#[doc(hidden)]
pub use fuzzing::fuzz_configuration;
pub use groups::{MAX_GROUP_NAME_BYTES, MAX_GROUP_PATTERNS, MAX_GROUPS, MAX_PATTERN_BYTES};
pub use identity::{Identity, IdentityError, MAX_IDENTITY_CHARACTERS};
pub use limits::*;
pub use log_health::LogHealth;
pub use process::{ConfiguredPath, ProcessConfig, ProcessSandbox};
pub use rates::MAX_SCHEDULES;
pub use reload::Reloader;
pub use server::{Server, ServerError};
pub use settings::{JobLimits, MAX_JOBS};
pub use spiffe::{MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeIdError};
pub use state::StateError;
pub use stepbox_audit::AuditError;
pub use stepbox_sandbox::SandboxConfig;
pub use stepbox_wire::Protection;
pub use tls::TlsError;
