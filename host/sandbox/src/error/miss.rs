//! Why the compile cache did not have a component.

use thiserror::Error;

/// Why a component was compiled although there is a cache.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Miss {
    /// It has not been admitted before under these settings, or is too long ago.
    #[error("there is no entry")]
    Absent,
    /// The system refuses, or the entry is a symbolic link.
    #[error("the entry cannot be read: {0}")]
    Unreadable(String),
    /// It is no file of a length that this server would have written.
    #[error("the entry is no file of the length of one")]
    NotAnEntry,
    /// Another format, or nothing of ours.
    #[error("the entry is of another format")]
    OtherFormat,
    /// Not written with this cache's key, or changed since.
    #[error("the entry is not authentic: damaged, tampered with, or made with another key")]
    NotAuthentic,
    /// Authentic, but for another component or other settings.
    #[error("the entry is another component's, or was made under other settings")]
    OtherSubject,
    /// Authentic, but wasmtime does not take it.
    #[error("wasmtime does not take the entry's code: {0}")]
    Rejected(String),
}

impl Miss {
    /// Whether somebody should look: entries are absent every day, but not forged.
    pub(crate) fn is_suspicious(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}
