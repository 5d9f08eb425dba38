//! Attacks on a real server while workers train through it.
//!
//! A `stepbox serve` process is attacked in every way that the threat model names, through the sockets and files an attacker
//! would have, while honest workers train over real TLS. After each attack the server must still be healthy and the weights
//! must be, bit for bit, those of the same training on another server that nobody disturbs.
//!
//! To add an attack, add a function and its row to the list in one of the files of `attacks`, one for each kind of attacker.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod answer;
pub mod arena;
pub mod attacks;
pub mod raw;
pub mod report;
pub mod threat;

use std::time::Duration;

use anyhow::{Context, Result};

/// Far beyond what anything here takes: reached only where something hangs, which is then said.
pub const HANGS: Duration = Duration::from_secs(120);

/// Waits for what must come to an end.
///
/// # Errors
/// It does not.
pub async fn in_time<T>(what: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(HANGS, what).await.with_context(|| format!("no end within {HANGS:?}"))
}
