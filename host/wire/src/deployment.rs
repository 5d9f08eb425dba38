//! What a server tells of components it keeps and of its trust in what runs.

use serde::{Deserialize, Serialize};

use crate::status::OptimizerStatus;

/// A component that was submitted and can be activated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmissionStatus {
    /// What it is.
    pub component: OptimizerStatus,
    /// Length of the signed file.
    pub bytes: u64,
    /// The identity that submitted it.
    pub submitted_by: String,
    /// When, in seconds since 1970.
    pub submitted_at: u64,
}

/// How what is deployed stands with the trust file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// In one word.
    pub standing: Standing,
    /// The optimizers in use or to come that are not trusted any more.
    pub revoked: Vec<RevokedOptimizer>,
    /// What can be rolled back to, the newest first.
    pub previous: Vec<OptimizerStatus>,
    /// Why the trust file as it is now cannot be used. The one read before it is in force for what runs, and nothing
    /// is deployed.
    pub trust_error: Option<String>,
}

/// Whether training goes on with what is deployed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Standing {
    /// Nothing is deployed.
    #[default]
    None,
    /// All that is deployed is trusted.
    Trusted,
    /// An optimizer is not trusted any more and goes on until another is deployed.
    Revoked,
    /// An optimizer is not trusted any more and runs no further round.
    Paused,
}

impl Standing {
    /// As it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Trusted => "trusted",
            Self::Revoked => "revoked",
            Self::Paused => "paused",
        }
    }
}

/// An optimizer that is not trusted any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedOptimizer {
    /// Which.
    pub optimizer: OptimizerStatus,
    /// The stable name of the reason, such as `revoked-digest`.
    pub reason: String,
    /// The same for people.
    pub message: String,
}
