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
//! deployers = ["alice"]               # may replace the optimizer and set the learning rate
//! schedulers = ["worker-0"]           # may set the learning rate
//! operators = ["bob"]                 # may ask for the server's status
//! auditors = []
//!
//! [trust]
//! store = "publishers.toml"           # whose optimizers are accepted
//! # "#;
//! # stepbox_server::Config::parse(text, std::path::Path::new("/etc/stepbox"))?;
//! # Ok::<(), stepbox_server::ConfigError>(())
//! ```
//!
//! Relative paths are relative to the file's own folder. A field the server does not know is an error: a limit with a
//! typing error in its name would not limit anything.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use stepbox_reduce::{Format, Reduction};
use stepbox_sandbox::{CompilerLimits, SandboxConfig};
use stepbox_trust::Digest;
use thiserror::Error;

use crate::audit::AuditConfig;
use crate::cache::CacheConfig;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::process::ProcessConfig;
use crate::settings::{self, JobLimits};

/// Seconds that a pull, a barrier or an `Init` waits for other workers. A round of a large model takes seconds; after a
/// minute somebody should look.
pub const DEFAULT_ROUND_TIMEOUT_SECONDS: f64 = 60.0;

/// Seconds that a worker whose connection broke has to come back before those who wait for it are told that it is lost:
/// enough for a connection that was reset, too short for a restarted process to load its data, which then registers as
/// lost and goes on.
pub const DEFAULT_RECONNECT_GRACE_SECONDS: f64 = 5.0;

/// Most workers of a job: a rank's bookkeeping is linear in them, and a round holds a gradient of each.
pub const MAX_WORKERS: usize = 1024;

/// Most shard threads; more than any machine's cores is a typing error.
pub const MAX_SHARD_THREADS: usize = 512;

/// Longest time that can be set anywhere, a week: longer is a typing error.
const MAX_SECONDS: f64 = 7.0 * 86_400.0;

/// Everything the operator sets.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on; port 0 takes a free one.
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
    /// SHA-256 of the text this was read from, hexadecimal.
    #[serde(skip)]
    pub digest: String,
}

/// The section `[tls]`: PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates of the authority that signs peers' certificates.
    pub ca: PathBuf,
    /// The server's certificate and what leads from it to the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The section `[job]`, or `[jobs.NAME]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobConfig {
    /// Identities of the workers; the position is the rank. A round needs a push of every one.
    pub workers: Vec<String>,
    /// What becomes of the workers' gradients.
    #[serde(default)]
    pub aggregation: Aggregation,
    /// How long a wait for other workers may take; [`DEFAULT_ROUND_TIMEOUT_SECONDS`].
    #[serde(default = "default_round_timeout")]
    pub round_timeout_seconds: Seconds,
    /// How long a worker may be away; [`DEFAULT_RECONNECT_GRACE_SECONDS`].
    #[serde(default = "default_reconnect_grace")]
    pub reconnect_grace_seconds: Seconds,
    /// What the sum or mean is multiplied with: the reciprocal of the factor that workers scale their losses with, where
    /// they do so to keep small gradients from vanishing in f16. 1 where absent.
    #[serde(default = "unscaled")]
    pub gradient_scale: f32,
    /// In which types whole gradients may be pushed; in all where absent. Rows are always f32.
    #[serde(default = "all_gradient_types")]
    pub gradient_types: Vec<GradientType>,
    /// Keys the random stream of optimizers that have one. The same seed gives the same run.
    #[serde(default)]
    pub seed: u64,
    /// Who may do what besides training: the section `[jobs.NAME.access]`.
    #[serde(default)]
    pub access: Option<AccessConfig>,
    /// Whose optimizers are accepted, where that is not what the whole server accepts: the section `[jobs.NAME.trust]`.
    #[serde(default)]
    pub trust: Option<TrustConfig>,
    /// The job's part of what the server has: the section `[jobs.NAME.limits]`.
    #[serde(default)]
    pub limits: JobLimits,
    /// Threads that run the job's optimizer; as many as the server's `shard_threads` where absent.
    #[serde(default)]
    pub shard_threads: Option<usize>,
}

/// What becomes of a round's gradients, taken in the order of ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// A type of gradients' elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GradientType {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of a binary32: its range, with 8 bits of precision.
    Bf16,
    /// IEEE 754 binary16: 11 bits of precision, up to 65504.
    F16,
}

impl GradientType {
    pub(crate) const fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::Bf16 => Format::Bf16,
            Self::F16 => Format::F16,
        }
    }
}

impl JobConfig {
    /// How a round's gradients become one.
    pub(crate) fn reduction(&self) -> Reduction {
        let reduction = match self.aggregation {
            Aggregation::Mean => Reduction::mean(),
            Aggregation::Sum => Reduction::sum(),
        };
        reduction.scaled(self.gradient_scale)
    }
}

/// The section `[access]`, or `[jobs.NAME.access]`. Who is not named has no right.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// May deploy an optimizer and set the learning rate, and see the status to know what is deployed.
    pub deployers: Vec<String>,
    /// May set the learning rate, and see the status to know what it is. Workers can be named here too.
    pub schedulers: Vec<String>,
    /// May see the status.
    pub operators: Vec<String>,
    /// May see the status.
    pub auditors: Vec<String>,
}

/// The section `[trust]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustConfig {
    /// The store of publishers.
    pub store: PathBuf,
}

/// A positive length of time, written as a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(f64);

impl Seconds {
    pub(crate) const fn from_constant(seconds: f64) -> Self {
        Self(seconds)
    }

    /// As the standard library's type.
    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        if seconds > 0.0 && seconds <= MAX_SECONDS {
            Ok(Self(seconds))
        } else {
            Err(format!("{seconds} seconds are not a time-out: it must be above 0 and at most {MAX_SECONDS}"))
        }
    }
}

fn unscaled() -> f32 {
    1.0
}

fn all_gradient_types() -> Vec<GradientType> {
    vec![GradientType::F32, GradientType::Bf16, GradientType::F16]
}

fn default_round_timeout() -> Seconds {
    Seconds::from_constant(DEFAULT_ROUND_TIMEOUT_SECONDS)
}

fn default_reconnect_grace() -> Seconds {
    Seconds::from_constant(DEFAULT_RECONNECT_GRACE_SECONDS)
}

/// Why a configuration is none. Always the operator's to mend.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
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
        Self::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// Reads a configuration from its text; relative paths in it are relative to `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)?;
        config.digest = Digest::of(text.as_bytes()).to_string();
        for path in [
            &mut config.state_directory,
            &mut config.tls.ca,
            &mut config.tls.certificate,
            &mut config.tls.key,
            &mut config.trust.store,
        ] {
            // An absolute path replaces the folder.
            *path = folder.join(&*path);
        }
        for trust in config.jobs.values_mut().chain(&mut config.job).filter_map(|job| job.trust.as_mut()) {
            trust.store = folder.join(&trust.store);
        }
        for directory in [&mut config.cache.directory, &mut config.audit.directory].into_iter().flatten() {
            *directory = folder.join(&*directory);
        }
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
        settings::check_jobs(self)?;
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
        if let Some(access) = &self.access {
            access.check(&field("access"))?;
        }
        Ok(())
    }
}

impl AccessConfig {
    /// `section` is where it stands, such as `access`.
    pub(crate) fn check(&self, section: &str) -> Result<(), ConfigError> {
        for (role, identities) in [
            ("deployers", &self.deployers),
            ("schedulers", &self.schedulers),
            ("operators", &self.operators),
            ("auditors", &self.auditors),
        ] {
            identities.iter().try_for_each(|identity| check_identity(&format!("{section}.{role}"), identity))?;
        }
        Ok(())
    }
}

fn check_identity(field: &str, identity: &str) -> Result<(), ConfigError> {
    match Identity::new(identity) {
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(field, error.to_string())),
    }
}

pub(crate) fn wrong(field: &str, reason: String) -> ConfigError {
    ConfigError::Value { field: field.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"
        listen = "127.0.0.1:0"
        state_directory = "state"
        [tls]
        ca = "ca.pem"
        certificate = "/etc/stepbox/server.pem"
        key = "server.key"
        [job]
        workers = ["worker-0", "worker-1"]
        [trust]
        store = "publishers.toml"
    "#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/srv/job"))
    }

    fn refused(text: &str) -> String {
        parse(text).expect_err("a configuration that cannot be meant").to_string()
    }

    #[test]
    fn what_is_not_set_has_its_default_and_denies_access() {
        let config = parse(SMALLEST).expect("the smallest configuration");
        assert_eq!(config.limits, Limits::default());
        assert!(config.shard_threads() >= 1 && config.access.is_none());
        let job = config.job.expect("the section");
        assert_eq!(job.aggregation, Aggregation::Mean);
        assert_eq!(job.reduction(), Reduction::mean());
        assert_eq!(job.gradient_types, all_gradient_types());
        assert_eq!(job.round_timeout_seconds.duration(), Duration::from_secs(60));
    }

    #[test]
    fn relative_paths_start_at_the_file_and_absolute_ones_stay() {
        let config = parse(SMALLEST).expect("the smallest configuration");
        assert_eq!(config.tls.ca, Path::new("/srv/job/ca.pem"));
        assert_eq!(config.tls.certificate, Path::new("/etc/stepbox/server.pem"));
        assert_eq!(config.trust.store, Path::new("/srv/job/publishers.toml"));
        assert_eq!(config.state_directory, Path::new("/srv/job/state"));
        assert_eq!(config.cache.directory, None);
        let cache =
            |path: &str| parse(&format!("{SMALLEST}\n[cache]\ndirectory = '{path}'")).map(|config| config.cache);
        assert_eq!(cache("kept").expect("a cache").directory.as_deref(), Some(Path::new("/srv/job/kept")));
        assert_eq!(cache("/var/kept").expect("a cache").directory.as_deref(), Some(Path::new("/var/kept")));
    }

    #[test]
    fn a_field_with_a_typing_error_is_not_ignored() {
        for (section, field) in [
            ("[limits]", "conections = 3"),
            ("[access]", "deployer = ['x']"),
            ("[sandbox]", "feul = 1"),
            ("[cache]", "enable = false"),
            ("[compiler]", "memory = 1"),
            ("[audit]", "dir = 'x'"),
        ] {
            let message = refused(&format!("{SMALLEST}\n{section}\n{field}"));
            let name = field.split(' ').next().expect("a name");
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused_by_name() {
        let workers = |list: &str| SMALLEST.replace(r#"["worker-0", "worker-1"]"#, list);
        assert!(refused(&workers("[]")).contains("job.workers"));
        assert!(refused(&workers(r#"["a", "a"]"#)).contains("twice"));
        assert!(refused(&workers(r#"["a\n"]"#)).contains("job.workers"));
        let job = |field: &str| SMALLEST.replace("[job]", &format!("[job]\n{field}"));
        assert!(refused(&job("gradient_types = []")).contains("job.gradient_types"));
        assert!(refused(&job("gradient_types = ['f64']")).contains("f64"));
        for scale in ["0", "-0.5", "nan", "inf", "1e-50"] {
            assert!(refused(&job(&format!("gradient_scale = {scale}"))).contains("job.gradient_scale"), "{scale}");
        }
        assert!(refused(&format!("shard_threads = 0\n{SMALLEST}")).contains("shard_threads"));
        assert!(refused(&format!("{SMALLEST}\n[limits]\nkeys = 0")).contains("limits.keys"));
        assert!(refused(&format!("{SMALLEST}\n[cache]\nentries = 0")).contains("cache.entries"));
        assert!(refused(&format!("{SMALLEST}\n[compiler]\ncode_bytes = 0")).contains("compiler.code_bytes"));
        assert!(refused(&format!("{SMALLEST}\n[audit]\nfiles = 1")).contains("audit.files"));
        assert!(refused(&format!("{SMALLEST}\n[audit]\nfile_bytes = 1")).contains("audit.file_bytes"));
        for seconds in ["0", "-1", "nan", "inf", "1e9"] {
            let text = format!("{SMALLEST}\n[limits]\nhandshake_seconds = {seconds}");
            assert!(refused(&text).contains("time-out"), "{seconds}");
        }
        let whole = parse(&format!("{SMALLEST}\n[limits]\nhandshake_seconds = 3")).expect("an integer");
        assert_eq!(whole.limits.handshake_seconds.duration(), Duration::from_secs(3));
    }
}
