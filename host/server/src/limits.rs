//! The server's limits on what peers may make it hold or wait for. Every one can be set in the configuration's
//! `[limits]`; each constant's text says why it is what it is.

use std::time::Duration;

use serde::Deserialize;
use stepbox_wire::{DEFAULT_BODY_BYTES, DEFAULT_HEADER_BYTES, FrameLimits};

use crate::config::Seconds;

/// Connections held at once. A job has one for each worker and a few for people; 1024 leaves room for large jobs and
/// stays far below the usual limit on open files.
pub const DEFAULT_CONNECTIONS: usize = 1024;

/// Connections held at once for one identity. A worker needs one, and a second for a moment while it comes back; people
/// open a few. A peer whose key was stolen cannot take all connections with it.
pub const DEFAULT_CONNECTIONS_PER_IDENTITY: usize = 16;

/// Seconds from a connection's acceptance to the end of its `Hello`. A TLS handshake takes two round trips; ten seconds
/// are enough across any network that training is done over, and end whoever only wants to hold a connection.
pub const DEFAULT_HANDSHAKE_SECONDS: f64 = 10.0;

/// Seconds that a frame, once its first byte is there, may take on top of what [`DEFAULT_BYTES_PER_SECOND`] allows for
/// its length. Covers a few lost packets and their retransmission.
pub const DEFAULT_FRAME_SECONDS: f64 = 30.0;

/// The slowest a frame may come in or an answer may go out, in bytes per second: 1 MiB/s, a fiftieth of a gigabit
/// network. A peer below it would hold a buffer of its tensor's size for no use: no round ends before its push does.
pub const DEFAULT_BYTES_PER_SECOND: u64 = 1 << 20;

/// Requests of one connection that wait for an answer. A worker that pulls all keys of a model at once has as many as
/// the model has keys; each costs a task of a few hundred bytes.
pub const DEFAULT_OUTSTANDING_REQUESTS: usize = 8192;

/// Row ids of a connection's unanswered row pulls together: 4 Mi ids are 32 MiB, a hundred times what a batch of an
/// embedding model touches.
pub const DEFAULT_ROW_IDS: usize = 4 << 20;

/// Keys of the model. The largest models in use have a few thousand tensors; a status message lists them all and must
/// fit a frame's header.
pub const DEFAULT_KEYS: usize = 8192;

/// Bytes of all weights together: 16 GiB, four billion parameters. The server holds a model's weights three times (in
/// the sandbox, as published, and the buffer of the version before), a gradient for each worker, and the optimizer's
/// slots.
pub const DEFAULT_MODEL_BYTES: u64 = 16 << 30;

/// Bytes of a component in a deployment: what the trust store takes by default.
pub const DEFAULT_COMPONENT_BYTES: u64 = stepbox_trust::MAX_COMPONENT_BYTES as u64;

/// Components that wait for their activation. A team tries out a few versions at a time.
pub const DEFAULT_SUBMISSIONS: usize = 32;

/// Of one identity, so that no publisher takes the room of all others.
pub const DEFAULT_SUBMISSIONS_PER_IDENTITY: usize = 8;

/// Bytes of all submissions on disk: 128 MiB, eight components of the largest size or hundreds of the usual.
pub const DEFAULT_SUBMISSION_BYTES: u64 = 128 << 20;

/// The section `[limits]` of the configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections held at once; [`DEFAULT_CONNECTIONS`].
    pub connections: usize,
    /// Connections held at once for one identity; [`DEFAULT_CONNECTIONS_PER_IDENTITY`].
    pub connections_per_identity: usize,
    /// From a connection's acceptance to the end of its `Hello`; [`DEFAULT_HANDSHAKE_SECONDS`].
    pub handshake_seconds: Seconds,
    /// What a frame may take besides its length's share; [`DEFAULT_FRAME_SECONDS`].
    pub frame_seconds: Seconds,
    /// The slowest a frame may come or go; [`DEFAULT_BYTES_PER_SECOND`].
    pub bytes_per_second: u64,
    /// Unanswered requests of a connection; [`DEFAULT_OUTSTANDING_REQUESTS`].
    pub outstanding_requests: usize,
    /// Row ids of a connection's unanswered row pulls; [`DEFAULT_ROW_IDS`].
    pub row_ids: usize,
    /// Longest header of a frame; [`DEFAULT_HEADER_BYTES`].
    pub header_bytes: u32,
    /// Longest body of a frame, so the largest tensor; [`DEFAULT_BODY_BYTES`].
    pub body_bytes: u64,
    /// Largest component; [`DEFAULT_COMPONENT_BYTES`].
    pub component_bytes: u64,
    /// Components that wait for their activation; [`DEFAULT_SUBMISSIONS`].
    pub submissions: usize,
    /// Those of one identity; [`DEFAULT_SUBMISSIONS_PER_IDENTITY`].
    pub submissions_per_identity: usize,
    /// Bytes of all of them; [`DEFAULT_SUBMISSION_BYTES`].
    pub submission_bytes: u64,
    /// Keys of the model; [`DEFAULT_KEYS`].
    pub keys: usize,
    /// Bytes of all weights together; [`DEFAULT_MODEL_BYTES`].
    pub model_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: DEFAULT_CONNECTIONS,
            connections_per_identity: DEFAULT_CONNECTIONS_PER_IDENTITY,
            handshake_seconds: Seconds::from_constant(DEFAULT_HANDSHAKE_SECONDS),
            frame_seconds: Seconds::from_constant(DEFAULT_FRAME_SECONDS),
            bytes_per_second: DEFAULT_BYTES_PER_SECOND,
            outstanding_requests: DEFAULT_OUTSTANDING_REQUESTS,
            row_ids: DEFAULT_ROW_IDS,
            header_bytes: DEFAULT_HEADER_BYTES,
            body_bytes: DEFAULT_BODY_BYTES,
            component_bytes: DEFAULT_COMPONENT_BYTES,
            submissions: DEFAULT_SUBMISSIONS,
            submissions_per_identity: DEFAULT_SUBMISSIONS_PER_IDENTITY,
            submission_bytes: DEFAULT_SUBMISSION_BYTES,
            keys: DEFAULT_KEYS,
            model_bytes: DEFAULT_MODEL_BYTES,
        }
    }
}

impl Limits {
    /// The limits that have to be known to read a frame.
    pub fn frame(&self) -> FrameLimits {
        FrameLimits { header_bytes: self.header_bytes, body_bytes: self.body_bytes }
    }

    /// How long `bytes` may take to come or go.
    pub fn time_for(&self, bytes: u64) -> Duration {
        self.frame_seconds.duration() + Duration::from_secs(bytes / self.bytes_per_second.max(1))
    }

    /// The names of limits that are zero: with them the server could do nothing.
    pub(crate) fn zeros(&self) -> impl Iterator<Item = &'static str> {
        [
            ("connections", self.connections == 0),
            ("connections_per_identity", self.connections_per_identity == 0),
            ("bytes_per_second", self.bytes_per_second == 0),
            ("outstanding_requests", self.outstanding_requests == 0),
            ("row_ids", self.row_ids == 0),
            ("header_bytes", self.header_bytes == 0),
            ("body_bytes", self.body_bytes == 0),
            ("component_bytes", self.component_bytes == 0),
            ("submissions", self.submissions == 0),
            ("submissions_per_identity", self.submissions_per_identity == 0),
            ("submission_bytes", self.submission_bytes == 0),
            ("keys", self.keys == 0),
            ("model_bytes", self.model_bytes == 0),
        ]
        .into_iter()
        .filter_map(|(name, zero)| zero.then_some(name))
    }
}
