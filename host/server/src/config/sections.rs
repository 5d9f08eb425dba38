//! The configuration's sections as types.

use std::path::PathBuf;

use serde::Deserialize;
use stepbox_reduce::{Format, Reduction};

use super::access::AccessConfig;
use super::seconds::Seconds;

/// Seconds that a pull, a barrier or an `Init` waits for other workers. A round of a large model takes seconds; after a
/// minute somebody should look.
pub const DEFAULT_ROUND_TIMEOUT_SECONDS: f64 = 60.0;

/// Seconds that a worker whose connection broke has to come back before those who wait for it are told that it is lost:
/// enough for a connection that was reset, too short for a restarted process to load its data, which then registers as
/// lost and goes on.
pub const DEFAULT_RECONNECT_GRACE_SECONDS: f64 = 5.0;

/// Seconds after which the trust file is looked at again: a revocation should not wait for anybody, and reading a few
/// kilobytes costs nothing.
pub const DEFAULT_TRUST_RELOAD_SECONDS: f64 = 2.0;

/// Seconds between two looks at the files: a renewed certificate has time, and a revocation takes effect before somebody
/// could be told of it.
pub const DEFAULT_RELOAD_SECONDS: f64 = 5.0;

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
    /// Revocation lists of the authority and its intermediates (RFC 5280), PEM. Where there are any, a certificate whose
    /// authority has none among them is refused.
    #[serde(default)]
    pub revocation_lists: Vec<PathBuf>,
    /// What becomes of peers when a list should have been followed by another.
    #[serde(default)]
    pub expired_revocation_lists: ExpiredLists,
    /// How often these files, and who may do what, are looked at; [`DEFAULT_RELOAD_SECONDS`](crate::DEFAULT_RELOAD_SECONDS).
    #[serde(default = "default_reload")]
    pub reload_seconds: Seconds,
}

impl TlsConfig {
    /// All files that are read.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca, &self.certificate, &self.key].into_iter().chain(&self.revocation_lists)
    }
}

/// What a revocation list means whose `nextUpdate` has passed: somebody may keep its successor from us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpiredLists {
    /// Nobody gets in, and nobody stays, whom it should tell of.
    #[default]
    Refuse,
    /// It counts on.
    Accept,
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
    /// The largest magnitude that an element of a pushed gradient may have; any finite one where absent.
    #[serde(default)]
    pub max_gradient_magnitude: Option<f32>,
    /// After so many rounds of a key in a row have failed by gradients of one worker, far above those of all others, this
    /// worker's pushes for the key are refused, until an optimizer is deployed or the server restarted. Never where absent.
    #[serde(default)]
    pub refuse_after_failures: Option<u64>,
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

/// The section `[jobs.NAME.limits]`: the job's part of a limit of the whole server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobLimits {
    /// Connections of `limits.connections`.
    pub connections: Option<usize>,
    /// Keys of `limits.keys`.
    pub keys: Option<usize>,
    /// Bytes of `limits.model_bytes`.
    pub model_bytes: Option<u64>,
    /// Bytes of `limits.receiving_bytes`.
    pub receiving_bytes: Option<u64>,
    /// Bytes of `limits.sending_bytes`.
    pub sending_bytes: Option<u64>,
    /// Bytes of `sandbox.limits.total_memory_bytes`.
    pub sandbox_memory_bytes: Option<u64>,
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

/// The section `[trust]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustConfig {
    /// The store of publishers.
    pub store: PathBuf,
    /// How often it is looked at again; [`DEFAULT_TRUST_RELOAD_SECONDS`].
    #[serde(default = "default_trust_reload")]
    pub reload_seconds: Seconds,
    /// What becomes of an optimizer that runs and is not trusted any more.
    #[serde(default)]
    pub on_revocation: OnRevocation,
}

/// What becomes of an optimizer that runs and is not trusted any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRevocation {
    /// It runs no further round.
    #[default]
    Pause,
    /// It goes on until another is deployed.
    Finish,
}

fn unscaled() -> f32 {
    1.0
}

fn all_gradient_types() -> Vec<GradientType> {
    vec![GradientType::F32, GradientType::Bf16, GradientType::F16]
}

fn default_reload() -> Seconds {
    Seconds::from_constant(DEFAULT_RELOAD_SECONDS)
}

fn default_round_timeout() -> Seconds {
    Seconds::from_constant(DEFAULT_ROUND_TIMEOUT_SECONDS)
}

fn default_trust_reload() -> Seconds {
    Seconds::from_constant(DEFAULT_TRUST_RELOAD_SECONDS)
}

fn default_reconnect_grace() -> Seconds {
    Seconds::from_constant(DEFAULT_RECONNECT_GRACE_SECONDS)
}
