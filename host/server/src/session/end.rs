//! Why a connection ends.

use super::frames::ReadError;
use crate::names::Refusal;

/// Why a connection ended.
pub(super) enum End {
    /// Between two frames, by the peer.
    Closed,
    /// Because of what the peer sent, or did not.
    Peer(ReadError),
    /// The worker came by another connection.
    Replaced,
    /// Its certificate is good no more.
    Invalid(String),
    /// It has no part in the job any more.
    Dismissed(Refusal),
    /// The server stops.
    Shutdown,
    /// The peer takes no answers any more.
    Unanswerable,
}
