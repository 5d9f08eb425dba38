//! What a server tells of itself.

use serde::{Deserialize, Serialize};

use crate::deployment::DeploymentStatus;
use crate::message::TensorType;
use crate::options::ScheduleStatus;

/// A deployed optimizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptimizerStatus {
    /// Name from the manifest.
    pub name: String,
    /// Version from the manifest.
    pub version: String,
    /// Key id of the publisher who signed it.
    pub publisher: String,
    /// SHA-256 of the signed content, hexadecimal: the same whoever has signed it.
    pub digest: String,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// The key.
    pub key: String,
    /// Its type.
    pub tensor: TensorType,
    /// Rounds it has been updated.
    pub version: u64,
    /// Into how many slices it is cut.
    pub slices: u32,
    /// The group it belongs to under the optimizer in use, empty for none.
    pub group: String,
}

/// One worker of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Identity in its certificate.
    pub identity: String,
    /// Rank.
    pub rank: u32,
    /// Whether it is connected and registered now.
    pub connected: bool,
}

/// How the server is. On the wire [`workers`](Self::workers) and [`keys`](Self::keys) are empty: they may be longer than a
/// message, and are asked for page by page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Version of the server's software.
    pub software: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The job that this connection belongs to; all below is this job's.
    pub job: String,
    /// The optimizer in use.
    pub optimizer: Option<OptimizerStatus>,
    /// One that takes over at a later round, and from which round on.
    pub pending_optimizer: Option<(OptimizerStatus, u64)>,
    /// The learning rate of the highest round that is open, before groups' multipliers.
    pub learning_rate: Option<f64>,
    /// The schedule it comes from.
    pub schedule: Option<ScheduleStatus>,
    /// One that was set and whose first round is not open yet.
    pub pending_schedule: Option<ScheduleStatus>,
    /// All workers of the job, by rank.
    pub workers: Vec<WorkerStatus>,
    /// All keys, by name.
    pub keys: Vec<KeyStatus>,
    /// Number of shard threads.
    pub shard_threads: u32,
    /// Updates of keys that were done.
    pub updates: u64,
    /// Mean duration of a key's update in microseconds: from the last push to the weights' publication.
    pub mean_update_microseconds: f64,
    /// Requests refused since the start.
    pub refusals: u64,
    /// SHA-256 over `stepbox weights 1` and a line feed, the number of keys, and in order of name each key's name, element
    /// type (such as `f32`), number of extents, extents and weights. Numbers are 64 bits, little-endian; texts and weights
    /// have their length in bytes before them. Hexadecimal. Only where asked for.
    pub weights_digest: Option<String>,
    /// Whether what is deployed is trusted, and what can be rolled back to.
    pub deployment: DeploymentStatus,
    /// The audit log; none where it is switched off.
    pub audit: Option<AuditStatus>,
    /// The log for people; none where the program that runs the server does not say.
    pub log: Option<LogStatus>,
    /// What keeps a server that is taken over from doing more harm.
    pub protections: Vec<Protection>,
    /// What the server's operator should see to, such as a file that has changed and cannot be used.
    pub warnings: Vec<String>,
}

/// How the audit log is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// Number of the newest line.
    pub line: u64,
    /// Its SHA-256, hexadecimal. Kept elsewhere, `line:head` is an anchor: no line up to it can be removed unnoticed.
    pub head: String,
    /// Events lost since the start.
    pub lost: u64,
    /// Why it cannot be written now.
    pub failing: Option<String>,
    /// What was found wrong with it, at the start and since.
    pub damaged: Option<String>,
}

/// How the server's log for people is, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Lines lost since the start, because standard error could not be written or was not read fast enough.
    pub lost_lines: u64,
    /// Why no line can be written now.
    pub failing: Option<String>,
}

/// Something that the server's process may not do, or does to its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Its name, such as `landlock`.
    pub name: String,
    /// Whether it is in force.
    pub active: bool,
    /// What exactly is, or why nothing is.
    pub detail: String,
}
