//! The audit log: who did what, in a file in which nothing can be changed without anybody noticing.
//!
//! A log is a directory of files `audit-000001.jsonl`, `audit-000002.jsonl`, … with one JSON object on each line:
//!
//! ```json
//! {"sequence":17,"time":"2026-01-31T12:00:00.000000Z","server":"ps-1","action":"deploy","outcome":"refused",
//!  "identity":"alice","code":"untrusted","reason":"…","previous":"<64 hexadecimal digits>","signature":"<base64>"}
//! ```
//!
//! `previous` is the SHA-256 of the line before, its line feed included; the first has 64 zeros. `signature` is the
//! server's Ed25519 signature over everything in the line before `,"signature"`. So a line that is changed has no
//! signature, and one that is removed, added, repeated or moved breaks the chain. Only the log's end has nothing after
//! it: that nothing was cut off there can be told by an *anchor*, the number and hash of a line that somebody has kept
//! elsewhere. `audit.head` beside the files is one, kept by the server itself; see [`verify()`].
//!
//! | module | what it does |
//! |---|---|
//! | [`record`](Record) | what is recorded, made harmless and bounded |
//! | `line` | one line: written, signed, read |
//! | `fold` | many of a kind become one |
//! | `head` | says, signed, which line is the newest |
//! | `end`, `cut_off` | how a log ends that another process has written |
//! | `damage` | what the server finds wrong with its log |
//! | `directory` | the files: found, begun, retired |
//! | `chain` | appends lines to the files; takes up where another process has ended |
//! | `log` | the queue and the thread that writes |
//! | [`verify()`] | finds what has been changed |
//! | `tail` | reads lines as they come |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod chain;
mod cut_off;
mod damage;
mod directory;
mod end;
mod error;
mod fold;
mod head;
mod line;
mod log;
mod record;
mod tail;
mod timestamp;
mod verify;

pub use chain::MAX_UNSYNCED;
pub use damage::Damage;
pub use directory::{HEAD_FILE, PUBLIC_KEY_FILE, files_of};
pub use error::AuditError;
pub use fold::{FOLD_BURST, FOLD_WINDOW, MAX_FOLDED_SUBJECTS, MAX_KINDS};
pub use line::{Anchor, AnchorError, Line, MAX_LINE_BYTES, Repeated, Torn};
pub use log::{AuditConfig, AuditLog, LogStatus, MIN_FILE_BYTES, NotRecorded, QUEUED_RECORDS};
pub use record::{MAX_DETAILS, MAX_IDENTITY_BYTES, MAX_TEXT_BYTES, Outcome, Record, START, STOP};
pub use tail::{Tail, TailLine};
pub use timestamp::Timestamp;
pub use verify::{Finding, FindingKind, MAX_FINDINGS, Note, Verified, verify};
