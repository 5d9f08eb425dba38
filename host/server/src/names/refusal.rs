//! Why the server says no.

use stepbox_wire::{ErrorCode, Failure, FrameError};

/// Longest message, in bytes: a screenful. What is refused may itself be a megabyte of text.
const MAX_MESSAGE_BYTES: usize = 4096;

/// A request's refusal: what the peer is told and what stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What a program can branch on; says whose fault it is.
    pub code: ErrorCode,
    /// What happened, to what, and what to do.
    pub message: String,
    /// The stable name of one reason among several that the code has.
    pub reason: Option<&'static str>,
    /// Whether an audit event tells of it already.
    pub audited: bool,
}

/// What a request ends with.
pub(crate) type Answered<T> = Result<T, Refusal>;

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reason: None, audited: false }
    }

    /// Names the reason.
    pub(crate) fn because(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// Cuts a message that repeats what a peer or a component has said at length.
    pub(crate) fn shorten(&mut self) {
        if self.message.len() > MAX_MESSAGE_BYTES {
            self.message.truncate(self.message.floor_char_boundary(MAX_MESSAGE_BYTES));
            self.message.push('…');
        }
    }
}

impl From<&FrameError> for Refusal {
    fn from(error: &FrameError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message, reason: refusal.reason.map(str::to_owned) }
    }
}
