//! Why a server does not start.

use std::io;
use std::net::SocketAddr;

use stepbox_audit::AuditError;
use stepbox_sandbox::SandboxError;
use stepbox_trust::{LedgerError, TrustStoreError};
use thiserror::Error;

use super::state_directory::StateError;
use crate::config::ConfigError;
use crate::names::IdentityError;
use crate::peer::TlsError;

/// Why a server does not start. The operator's to mend, unless a variant says otherwise.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Certificates and keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store of publishers.
    #[error(transparent)]
    Trust(#[from] TrustStoreError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The ledger of versions.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A worker's name.
    #[error("`job.workers` in the configuration: {0}")]
    Identity(#[from] IdentityError),
    /// The shard threads cannot be started: the machine has no room for them.
    #[error("cannot start the shard threads: {0}")]
    Threads(io::Error),
}
