//! Accesses that leave an instance's memory.

use super::{SandboxError, StepError};

/// What the server has placed in an instance's memory is no longer within it. This cannot happen, since memories never
/// shrink, but is no reason to stop the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotInMemory;

impl From<NotInMemory> for SandboxError {
    fn from(_: NotInMemory) -> Self {
        Self::Engine("a slice is no longer within its instance's memory".into())
    }
}

impl From<NotInMemory> for StepError {
    fn from(error: NotInMemory) -> Self {
        Self::not_revived(error.into())
    }
}
