//! What a client is told before it connects.

use std::path::PathBuf;
use std::time::Duration;

use stepbox_wire::{DEFAULT_JOB, FrameLimits};

/// Time for resolving the name, TCP, TLS and the greeting together: several round trips to the other side of the world
/// with retransmissions, and still short enough to wait for at a prompt.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the answer to a request: longer than a server lets a round or a barrier take, so that it is the server who
/// gives up first and says which worker is missing.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Where the server is, who this client is, and how long it waits.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The server's address, `host:port`.
    pub server: String,
    /// The name the server's certificate must be for: the host in `server` unless set.
    pub server_name: Option<String>,
    /// The server's job that this client takes part in: [`DEFAULT_JOB`] unless set.
    pub job: String,
    /// PEM file with the certificates of the authority that the server's certificate must come from.
    pub authority: PathBuf,
    /// PEM file with this client's certificate, followed by the intermediates if there are any.
    pub certificate: PathBuf,
    /// PEM file with this client's private key.
    pub key: PathBuf,
    /// Time for connecting, [`DEFAULT_CONNECT_TIMEOUT`] unless set.
    pub connect_timeout: Duration,
    /// Time for the answer to a request, [`DEFAULT_REQUEST_TIMEOUT`] unless set.
    pub request_timeout: Duration,
    /// The longest frames sent and received.
    pub limits: FrameLimits,
}

impl ClientConfig {
    /// A configuration with the default limits and time-outs.
    pub fn new(
        server: impl Into<String>,
        authority: impl Into<PathBuf>,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        Self {
            server: server.into(),
            server_name: None,
            job: DEFAULT_JOB.into(),
            authority: authority.into(),
            certificate: certificate.into(),
            key: key.into(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            limits: FrameLimits::default(),
        }
    }

    /// The name the server's certificate must be for.
    pub(crate) fn expected_name(&self) -> &str {
        self.server_name.as_deref().unwrap_or_else(|| {
            let host = self.server.rsplit_once(':').map_or(self.server.as_str(), |(host, _port)| host);
            host.trim_start_matches('[').trim_end_matches(']')
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_name_is_the_host_unless_set() {
        let name = |server: &str| ClientConfig::new(server, "ca", "cert", "key").expected_name().to_owned();
        assert_eq!(name("ps.example.com:7437"), "ps.example.com");
        assert_eq!(name("127.0.0.1:7437"), "127.0.0.1");
        assert_eq!(name("[::1]:7437"), "::1");
        let mut config = ClientConfig::new("10.0.0.7:7437", "ca", "cert", "key");
        config.server_name = Some("ps.internal".into());
        assert_eq!(config.expected_name(), "ps.internal");
    }
}
