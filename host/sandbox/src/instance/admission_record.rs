//! How a component came to be admitted: what a log line and a measurement say of it.

use std::time::Duration;

use crate::error::Miss;

/// Where the native code and the trial's outcome of an admitted component are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It was compiled and tried out. The reason is there where a cache might have spared that.
    Compiled(Option<Miss>),
    /// From the cache on disk.
    Cached,
    /// The same component was in use already.
    InUse,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Compiled(None) => formatter.write_str("compiled"),
            Self::Compiled(Some(miss)) => write!(formatter, "compiled, since {miss}"),
            Self::Cached => formatter.write_str("cached"),
            Self::InUse => formatter.write_str("in use already"),
        }
    }
}

/// How a component came to be admitted, and how long the two long parts of that took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Where code and trial are from.
    pub origin: Origin,
    /// Until there was native code: compiling it, or reading and authenticating it.
    pub code: Duration,
    /// The trial run; nothing where its outcome was known.
    pub trial: Duration,
}
