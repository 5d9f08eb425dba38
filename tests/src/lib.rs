//! The basis of the end-to-end tests: a real server in this process, with real certificates, components and log, and
//! peers that use real TLS, correctly or incorrectly.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod authority;
mod log;
mod raw;
mod server;

pub use authority::{Authority, Credentials};
pub use log::{is_logged, logged};
pub use raw::RawPeer;
pub use server::{Options, Publisher, TestServer, component};

use std::time::Duration;

/// Far longer than anything here takes: reached only if something hangs, so that the test fails instead of hanging too.
pub const HANGS: Duration = Duration::from_secs(120);

/// Waits for a future that must complete within [`HANGS`].
pub async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, what).await.expect("the operation completes in time")
}
