//! What can be wrong with a log's files.

use std::io;
use std::path::{Path, PathBuf};

use stepbox_trust::KeyError;
use thiserror::Error;

/// Why a log cannot be opened or read. The operator's to mend.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A file or directory of the log.
    #[error("the audit log: cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried, such as `read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process writes to this log.
    #[error("another server writes to the audit log in {}; give each server a directory of its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is nothing of a log here.
    #[error("{} has no audit log: no file is called audit-000001.jsonl or the like", path.display())]
    NoLog {
        /// The directory.
        path: PathBuf,
    },
    /// The key that signs.
    #[error("the audit log's key: {0}")]
    Key(#[from] KeyError),
    /// The thread that writes.
    #[error("cannot start the thread that writes the audit log: {0}")]
    Thread(io::Error),
}

impl AuditError {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, path: path.to_owned(), source }
    }
}
