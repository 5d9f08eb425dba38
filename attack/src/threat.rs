//! The threats that people who run parameter servers name, in their words.

use std::fmt;

use serde::{Serialize, Serializer};

/// A threat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Threat {
    /// What a server runs came as data that is code.
    Pickle,
    /// A component that its publisher did not make so, or should not be run any more.
    Forgery,
    /// A component that its publisher did make so.
    HostileOptimizer,
    /// Peers that nobody knows.
    Unauthenticated,
    /// Peers that somebody overhears.
    Plaintext,
    /// Peers that do what is not their part.
    Unauthorised,
    /// Peers that want the server to do nothing else.
    Flood,
    /// Peers that pose as others, or as themselves once more.
    Impersonation,
    /// Peers that take part, and harm.
    Manipulation,
    /// Weights and state at rest.
    Checkpoints,
    /// Models at rest.
    Artifacts,
    /// The server's process and files.
    SingleTarget,
    /// Deeds without a trace.
    NoRecord,
    /// Deeds without a witness.
    NobodyWatches,
    /// Keys that can be guessed.
    Randomness,
    /// Weights in the wrong hands.
    ModelStealing,
    /// Code that others wrote.
    Dependencies,
    /// Keys in the wrong hands.
    Credentials,
    /// Other transports.
    Transports,
}

impl Threat {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 19] = [
        Self::Pickle,
        Self::Forgery,
        Self::HostileOptimizer,
        Self::Unauthenticated,
        Self::Plaintext,
        Self::Unauthorised,
        Self::Flood,
        Self::Impersonation,
        Self::Manipulation,
        Self::Checkpoints,
        Self::Artifacts,
        Self::SingleTarget,
        Self::NoRecord,
        Self::NobodyWatches,
        Self::Randomness,
        Self::ModelStealing,
        Self::Dependencies,
        Self::Credentials,
        Self::Transports,
    ];

    /// As people say it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Pickle => "pickled optimizer = remote code execution on servers",
            Self::Forgery => "forged, tampered, truncated, downgraded, expired or revoked optimizer",
            Self::HostileOptimizer => {
                "signed but hostile optimizer: infinite loop, memory bomb, stack overflow, huge returns, compile bomb, \
                 poisoned offsets, NaN output"
            }
            Self::Unauthenticated => "no authentication between nodes",
            Self::Plaintext => "plaintext parameters, gradients, control messages",
            Self::Unauthorised => "no authorisation",
            Self::Flood => "denial of service: floods, slow connections, oversized frames, memory exhaustion",
            Self::Impersonation => "worker impersonation, replayed or duplicated pushes",
            Self::Manipulation => "gradient manipulation, data poisoning by a compromised worker",
            Self::Checkpoints => "stolen or corrupted checkpoints",
            Self::Artifacts => "tampered model artifacts",
            Self::SingleTarget => "parameter server as single target and single point of failure",
            Self::NoRecord => "no record of who did what",
            Self::NobodyWatches => "nobody watches",
            Self::Randomness => "weak randomness",
            Self::ModelStealing => "model stealing through pulls",
            Self::Dependencies => "vulnerable or untrusted dependencies",
            Self::Credentials => "weak credential handling",
            Self::Transports => "MPI, Horovod, NCCL, RDMA transports without security",
        }
    }

    /// Why no attack here is on this threat; `None` where there are some.
    pub const fn not_here(self) -> Option<&'static str> {
        match self {
            Self::Checkpoints => Some("there are no checkpoints yet"),
            Self::Artifacts => Some("there are no exported models yet"),
            Self::NobodyWatches => Some("there are no metrics or alerts yet, besides the status and the audit log"),
            Self::Randomness => Some("nothing of it shows in a server's answers"),
            Self::Dependencies => Some("it is answered where the server is built: `cargo xtask test --only deny`"),
            Self::Transports => Some("there is one transport, TLS over TCP"),
            _ => None,
        }
    }
}

impl fmt::Display for Threat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.words())
    }
}

impl Serialize for Threat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.words())
    }
}
