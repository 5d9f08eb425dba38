//! What can go wrong, and who is to mend it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use stepbox_wire::{ElementType, ErrorCode, Failure, FrameError};
use thiserror::Error;

/// Why a client could not connect, or a request failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A certificate or key cannot be used. Yours to mend.
    #[error("cannot use {what}, {path}: {reason}; give the PEM files that `stepbox ca` made", path = path.display())]
    Credential {
        /// Which of them.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The name the server's certificate is to be for is none.
    #[error("`{name}` is neither a host's name nor an address; give the name in the server's certificate")]
    ServerName {
        /// The name.
        name: String,
    },
    /// TLS cannot be set up on this side.
    #[error("TLS 1.3 cannot be set up: {reason}")]
    Tls {
        /// What rustls says.
        reason: String,
    },
    /// There is no TCP connection to be had.
    #[error("cannot reach the server {server}: {source}; check its address and that it runs")]
    Unreachable {
        /// The address.
        server: String,
        /// What the system says.
        source: io::Error,
    },
    /// Server and client do not accept each other.
    #[error("no agreement with the server {server}: {reason}")]
    Handshake {
        /// The address.
        server: String,
        /// The name its certificate must be for.
        name: String,
        /// Whose certificate is refused, why, and who is to do what; or what else TLS says.
        reason: String,
    },
    /// The server refused the request. Its message says what to do.
    #[error("the server refused: {message} [{code}]")]
    Refused {
        /// What to branch on.
        code: ErrorCode,
        /// What happened, to what, and what to do.
        message: String,
        /// The stable name of one reason among several that the code has, such as `revoked-key`.
        reason: Option<String>,
    },
    /// The connection is gone. What was asked and not answered may or may not have been done; connect again, register,
    /// and push the open round once more, which the server counts once.
    #[error("the connection to the server is lost: {reason}; connect again and repeat the open round")]
    ConnectionLost {
        /// How it ended.
        reason: String,
    },
    /// The server sent what it must not. Its fault, or a program that is no Stepbox server.
    #[error("the server broke the protocol: {reason}")]
    Protocol {
        /// What it sent.
        reason: String,
    },
    /// No answer came in time.
    #[error("no answer to `{request}` within {after:?}; {}", silence(request))]
    TimedOut {
        /// What was asked.
        request: &'static str,
        /// The configured time-out.
        after: Duration,
    },
    /// The request would not be a frame the protocol knows. Nothing was sent.
    #[error("the request cannot be sent: {0}")]
    Request(#[from] FrameError),
    /// The shape does not hold the values.
    #[error("a tensor of shape {shape:?} has {expected} elements, {found} values are given")]
    Shape {
        /// The shape.
        shape: Vec<u64>,
        /// Its elements.
        expected: u64,
        /// Number of values.
        found: usize,
    },
    /// A value cannot be sent in half precision. Nothing was sent.
    #[error(
        "element {index} is {value}, which {element} has no finite number for; scale the loss down, clip the gradient, \
         or push it as bf16 or f32"
    )]
    NotRepresentable {
        /// Position of the first such value.
        index: usize,
        /// The value.
        value: f32,
        /// The type it was to have.
        element: ElementType,
    },
    /// The values are not as many rows as there are ids.
    #[error("{ids} row ids are given with values of shape {shape:?}; its first extent must be their number")]
    Rows {
        /// Number of ids.
        ids: usize,
        /// The values' shape.
        shape: Vec<u64>,
    },
    /// A push without knowledge of the weights the gradient was computed from.
    #[error("the version of key `{key}` is not known here; call `init` or `pull` for it before the first push")]
    UnknownVersion {
        /// The key.
        key: String,
    },
}

impl From<Failure> for ClientError {
    fn from(failure: Failure) -> Self {
        Self::Refused { code: failure.code, message: failure.message, reason: failure.reason }
    }
}

impl ClientError {
    /// The server's code where it refused the request.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The server's reason where it refused the request and its code has several, such as `revoked-key`.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } => reason.as_deref(),
            _ => None,
        }
    }
}

/// The name under which connecting times out.
pub(crate) const CONNECT: &str = "connect";

/// Why a server may say nothing.
fn silence(request: &str) -> &'static str {
    if request == CONNECT {
        "the network drops what is sent there, or the server accepts no connection: it is stopped, has no file \
         descriptor left, or has more handshakes to do than limits.handshakes_per_second; its log says which"
    } else {
        "the server waits for other workers, slows this identity down because it asks more than it may (its log says \
         `slowed` and names the limit), or the network is stuck; or the time-out is too short"
    }
}
