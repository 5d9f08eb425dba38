//! What a server finds wrong with its own log.

use crate::record::{Outcome, Record};

/// What a server finds wrong with its log, when it takes it up or while it writes. It goes on, and the log has a signed
/// line about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// The log ends before a line that had been written.
    EndMissing {
        /// The last line that is there, 0 for none.
        last: u64,
        /// The line that had been written, as `audit.head` has it.
        written: u64,
    },
    /// Its last line is there, and is not the one that had been written under this number.
    EndChanged {
        /// The line's number.
        line: u64,
    },
    /// There are lines, and no head that says, signed, which is the newest.
    HeadMissing,
    /// Its last lines are not signed with the server's key, or cannot be read at all.
    NotOurs,
    /// Something stands behind its last signed line that no write of the server's has left there.
    Unsigned {
        /// The last line that is signed.
        last: u64,
        /// How much stands behind it, as far as it was looked at.
        bytes: u64,
    },
    /// The file that the server writes to is not in its place any more, or another one is.
    FileGone {
        /// Its name.
        file: String,
        /// The last line in it.
        last: u64,
    },
    /// The file that the server writes to has another length than the server gave it.
    FileChanged {
        /// Its name.
        file: String,
        /// The length that the server gave it.
        written: u64,
        /// The length it has.
        found: u64,
    },
}

impl Damage {
    /// The line about it.
    pub(crate) fn record(&self) -> Record {
        let (code, reason) = match self {
            Self::EndMissing { last, written } => (
                "end-missing",
                format!(
                    "the log ended with line {last}, but line {written} had been written (audit.head): lines were removed"
                ),
            ),
            Self::EndChanged { line } => {
                ("end-changed", format!("line {line} is not the one that had been written (audit.head)"))
            }
            Self::HeadMissing => (
                "head-missing",
                "audit.head was not there, or not ours: whether lines were removed at the end cannot be told"
                    .to_owned(),
            ),
            Self::NotOurs => ("not-ours", "the log's last lines are not signed with the server's key".to_owned()),
            Self::Unsigned { last, bytes } => (
                "unsigned",
                format!(
                    "{bytes} bytes behind line {last} are not signed, and no cut-off write has left them: somebody has \
                     added them"
                ),
            ),
            Self::FileGone { file, last } => (
                "file-gone",
                format!(
                    "{file} was moved, removed or replaced while the server wrote to it, with the lines up to {last}; \
                     the log goes on in a new file"
                ),
            ),
            Self::FileChanged { file, written, found } => (
                "file-changed",
                format!(
                    "{file} has {found} bytes where the server had written {written}: lines were removed or added while \
                     the server wrote to it"
                ),
            ),
        };
        Record { code: code.into(), reason, ..Record::new("audit", Outcome::Noted) }
    }
}
