//! What the end-to-end tests stand on: a real server in this process, with real certificates, real components and a
//! real log, and peers that speak to it over real TLS, in order or out of it.

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

/// Far beyond what anything here takes: reached only where something hangs, which a test then says instead of hanging
/// too.
pub const HANGS: Duration = Duration::from_secs(120);

/// Waits for what must come to an end.
pub async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, what).await.expect("it hangs")
}
