//! What the operator sets, in TOML.
//!
//! ```
//! # let text = r#"
//! listen = "127.0.0.1:7070"
//! state_directory = "state"           # remembers the versions deployed, so that none is taken back
//!
//! [tls]
//! ca = "ca.pem"                       # who may connect at all: certificates of this authority
//! certificate = "server.pem"
//! key = "server.key"
//!
//! [job]
//! workers = ["worker-0", "worker-1"]  # identities; the position is the rank
//! aggregation = "mean"                # or "sum"
//! round_timeout_seconds = 60
//! reconnect_grace_seconds = 5
//!
//! [access]                            # of this job; several jobs are `[jobs.NAME]` with `[jobs.NAME.access]`
//! publishers = ["alice", "carol"]     # may bring components, to be activated
//! deployers = ["alice"]               # may activate them and set the learning rate
//! schedulers = ["worker-0"]           # may set the learning rate
//! operators = ["bob"]                 # may ask for the server's status
//! auditors = []
//!
//! [trust]
//! store = "publishers.toml"           # whose optimizers are accepted
//! reload_seconds = 2                  # looked at again this often
//! on_revocation = "pause"             # what becomes of one that runs; or "finish"
//! # "#;
//! # stepbox_server::Config::parse(text, std::path::Path::new("/etc/stepbox"))?;
//! # Ok::<(), stepbox_server::ConfigError>(())
//! ```
//!
//! Relative paths are relative to the file's own folder. A field the server does not know is an error: a limit with a
//! typing error in its name would not limit anything.

mod access;
mod audit;
mod cache;
mod fuzzing;
mod jobs;
mod limits;
mod paths;
mod process;
mod seconds;
mod sections;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use stepbox_sandbox::{CompilerLimits, SandboxConfig};
use stepbox_trust::{Digest, has_end_mark};
use thiserror::Error;

use crate::names::Identity;

pub use access::*;
pub use audit::{AuditConfig, DEFAULT_AUDIT_FILE_BYTES, DEFAULT_AUDIT_FILES, MAX_AUDIT_FILES, OnAuditFailure};
pub use cache::CacheConfig;
#[doc(hidden)]
pub use fuzzing::fuzz_configuration;
pub use jobs::MAX_JOBS;
pub(crate) use jobs::{JobSettings, settings};
pub use limits::*;
pub(crate) use process::unreadable;
pub use process::{ConfiguredPath, ProcessConfig, ProcessSandbox};
pub use seconds::Seconds;
pub use sections::*;

/// Most workers of a job: a rank's bookkeeping is linear in them, and a round holds a gradient of each.
pub const MAX_WORKERS: usize = 1024;

/// Most shard threads; more than any machine's cores is a typing error.
pub const MAX_SHARD_THREADS: usize = 512;

/// Everything the operator sets.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on; port 0 takes a free one.
    #[serde(deserialize_with = "paths::listen_address")]
    pub listen: SocketAddr,
    /// Folder for what must survive a restart; made if it is not there.
    pub state_directory: PathBuf,
    /// Threads that run the optimizer. One for each core where absent. Results do not depend on it.
    #[serde(default)]
    pub shard_threads: Option<usize>,
    /// Who the server is and whom it talks to.
    pub tls: TlsConfig,
    /// What is trained, and by whom, on a server of one job: the job `default`.
    #[serde(default)]
    pub job: Option<JobConfig>,
    /// Several jobs by name, isolated from each other.
    #[serde(default)]
    pub jobs: BTreeMap<String, JobConfig>,
    /// Who may do what besides training, in the job of the section `[job]`. Others have a section of their own.
    #[serde(default)]
    pub access: Option<AccessConfig>,
    /// Whose optimizers are accepted.
    pub trust: TrustConfig,
    /// What an optimizer may use.
    #[serde(default)]
    pub sandbox: SandboxConfig,
    /// What compiling an optimizer may take.
    #[serde(default)]
    pub compiler: CompilerLimits,
    /// Compiled optimizers on disk.
    #[serde(default)]
    pub cache: CacheConfig,
    /// What peers may use.
    #[serde(default)]
    pub limits: Limits,
    /// The record of who did what.
    #[serde(default)]
    pub audit: AuditConfig,
    /// What the process gives up.
    #[serde(default)]
    pub process: ProcessConfig,
    /// The mark that nothing was cut off, as the file's last line. Once it is in force, no file without it is taken.
    #[serde(default)]
    pub end: Option<EndMark>,
    /// SHA-256 of the text this was read from, hexadecimal.
    #[serde(skip)]
    pub digest: String,
    /// Where it is from, if from a file.
    #[serde(skip)]
    pub(crate) origin: Option<Origin>,
}

/// `[end]`, which holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndMark {}

/// The file that a configuration is from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub path: PathBuf,
    table: toml::Table,
}

impl Origin {
    /// Whether nothing but rights differs.
    pub fn is_alike_but_for_rights(&self, other: &Self) -> bool {
        let without_rights = |origin: &Self| {
            let mut table = origin.table.clone();
            table.remove("access");
            table.remove("end");
            let drop_rights = |section: &mut toml::Value| section.as_table_mut().map(|job| job.remove("access"));
            table.get_mut("job").map(drop_rights);
            if let Some(jobs) = table.get_mut("jobs").and_then(toml::Value::as_table_mut) {
                jobs.iter_mut().for_each(|(_, job)| drop(drop_rights(job)));
            }
            table
        };
        without_rights(self) == without_rights(other)
    }
}

/// Why a configuration is none. Always the operator's to mend.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {}", path.display(), unreadable(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The mark at the end is missing, or stands elsewhere.
    #[error(
        "the configuration {} does not end with the line `[end]`: it was cut off, or is still being written, or something \
         follows that line. If it is complete, make `[end]` its last line",
        path.display()
    )]
    Incomplete {
        /// The file.
        path: PathBuf,
    },
    /// Not the TOML the server understands.
    #[error("the configuration is not understood: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A value that cannot be meant.
    #[error("`{field}` in the configuration: {reason}")]
    Value {
        /// Path of the field, such as `job.workers`.
        field: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
}

impl Config {
    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = Self::parse(&text, path.parent().unwrap_or(Path::new("")))?;
        if config.end.is_some() && !has_end_mark(&text) {
            return Err(ConfigError::Incomplete { path: path.to_owned() });
        }
        config.origin = Some(Origin { path: path.to_owned(), table: text.parse()? });
        Ok(config)
    }

    /// Reads the file of this configuration again. If this one ends with its mark, so must the next: the beginning of a
    /// file can give more rights than the whole, which may deny some.
    pub(crate) fn load_again(&self, path: &Path) -> Result<Self, ConfigError> {
        let next = Self::load(path)?;
        if self.end.is_some() && next.end.is_none() {
            return Err(ConfigError::Incomplete { path: path.to_owned() });
        }
        Ok(next)
    }

    /// Reads a configuration from its text; relative paths in it are relative to `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)?;
        config.digest = Digest::of(text.as_bytes()).to_string();
        paths::resolve(&mut config, folder)?;
        config.check()?;
        Ok(config)
    }

    /// Number of a job's shard threads: as set, or the number of cores.
    pub fn shard_threads(&self) -> usize {
        self.shard_threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_SHARD_THREADS)
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        jobs::check_jobs(self)?;
        if self.shard_threads.is_some_and(|threads| threads == 0 || threads > MAX_SHARD_THREADS) {
            return Err(wrong("shard_threads", format!("must be 1 to {MAX_SHARD_THREADS}")));
        }
        if let Some(name) = self.limits.zeros().next() {
            return Err(wrong(&format!("limits.{name}"), "must be above 0, or the server could do nothing".into()));
        }
        if let Some((name, value, range)) = self.compiler.out_of_range() {
            let reason = format!("is {value}; it must be from {} to {}", range.start(), range.end());
            return Err(wrong(&format!("compiler.{name}"), reason));
        }
        if let Some((field, reason)) = self.audit.wrong() {
            return Err(wrong(field, reason));
        }
        for (field, zero) in [("cache.entries", self.cache.entries == 0), ("cache.bytes", self.cache.bytes == 0)] {
            if zero {
                return Err(wrong(field, "must be above 0; to have no cache set cache.enabled = false".into()));
            }
        }
        Ok(())
    }
}

impl JobConfig {
    /// `section` is where it stands, such as `job`.
    pub(crate) fn check(&self, section: &str) -> Result<(), ConfigError> {
        let field = |name: &str| format!("{section}.{name}");
        let workers = &self.workers;
        if workers.is_empty() || workers.len() > MAX_WORKERS {
            return Err(wrong(&field("workers"), format!("{} workers; name 1 to {MAX_WORKERS}", workers.len())));
        }
        let mut seen = HashSet::new();
        for identity in workers {
            check_identity(&field("workers"), identity)?;
            if !seen.insert(identity) {
                let reason = format!("`{identity}` stands there twice; an identity has one rank");
                return Err(wrong(&field("workers"), reason));
            }
        }
        if self.gradient_types.is_empty() {
            return Err(wrong(&field("gradient_types"), "no gradient could be pushed; name f32, bf16 or f16".into()));
        }
        let scale = self.gradient_scale;
        if !scale.is_normal() || scale < 0.0 {
            return Err(wrong(&field("gradient_scale"), format!("{scale} is no factor; it must be a number above 0")));
        }
        if let Some(bound) = self.max_gradient_magnitude.filter(|bound| !bound.is_normal() || *bound < 0.0) {
            let reason = format!("{bound} is no bound; it must be a number above 0, such as 1e6");
            return Err(wrong(&field("max_gradient_magnitude"), reason));
        }
        if self.refuse_after_failures == Some(0) {
            let reason = "0 would refuse every push; it must be at least 1".to_owned();
            return Err(wrong(&field("refuse_after_failures"), reason));
        }
        if let Some(access) = &self.access {
            access.check(&field("access"), &self.workers)?;
        }
        Ok(())
    }
}

pub(crate) fn check_identity(field: &str, identity: &str) -> Result<(), ConfigError> {
    match Identity::new(identity) {
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(field, error.to_string())),
    }
}

pub(crate) fn wrong(field: &str, reason: String) -> ConfigError {
    ConfigError::Value { field: field.to_owned(), reason }
}

#[cfg(test)]
mod tests;
