//! What is no longer trusted, whoever signed it.

use std::fmt;

use serde::Serialize;

use crate::Moment;

/// A reason is at most this long, so that it fits in a log line.
pub const MAX_REASON_BYTES: usize = 256;

/// Why and since when a key or a component is revoked, as far as the policy says so.
///
/// Both are for people. A revocation holds from the moment in which a server reads it and for all signatures: nobody
/// can tell when a signature was made, least of all of a key that somebody stole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<Moment>,
}

impl fmt::Display for Revocation {
    /// Nothing, or what is known in brackets, with a space before them.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.reason, &self.date) {
            (None, None) => Ok(()),
            (Some(reason), None) => write!(formatter, " ({reason})"),
            (None, Some(date)) => write!(formatter, " (on {date})"),
            (Some(reason), Some(date)) => write!(formatter, " ({reason}, on {date})"),
        }
    }
}
