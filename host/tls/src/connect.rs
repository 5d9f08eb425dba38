//! From a TCP connection to its two halves.

use std::io;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::UnbufferedConnectionCommon as Common;
use rustls::{ClientConfig, ExtractedSecrets, ServerConfig};
use tokio::net::TcpStream;

use crate::handshake::shake_hands;
use crate::keys::Keys;
use crate::reader::{Peer, TlsReader};
use crate::record::{Opener, Sealer};
use crate::writer::TlsWriter;

/// The cryptography that all of Stepbox uses, whatever another crate of the process installs as rustls' default.
pub fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// A connection whose handshake is done. A client knows by then who the server is; a server knows who the client is where
/// its configuration demands a certificate.
pub struct Established {
    /// What the peer sends.
    pub reader: TlsReader,
    /// What the peer is sent.
    pub writer: TlsWriter,
    /// The peer's certificate and what it is certified by; empty where none was asked for.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// The accepting side.
#[derive(Debug, Clone)]
pub struct Acceptor(Arc<ServerConfig>);

/// The connecting side.
#[derive(Debug, Clone)]
pub struct Connector(Arc<ClientConfig>);

impl Acceptor {
    /// Takes what the configuration says of versions and certificates. Sessions are not resumed: a peer connects once
    /// and stays, and tickets would only be keys to look after.
    pub fn new(mut config: ServerConfig) -> Self {
        config.enable_secret_extraction = true;
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        // The handshake ends with the client's part of it; before that nothing is sent.
        config.send_half_rtt_data = false;
        Self(Arc::new(config))
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// The connection breaks, or the two sides do not agree; what the peer is told of it is sent.
    pub async fn accept(&self, mut stream: TcpStream) -> io::Result<Established> {
        let mut connection = UnbufferedServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        let records =
            shake_hands(&mut stream, &mut connection, Common::<ServerConnectionData>::process_tls_records).await?;
        let certificates = owned(connection.peer_certificates());
        let (secrets, kernel) = connection.dangerous_into_kernel_connection().map_err(io::Error::other)?;
        establish(stream, Peer::Client, records, secrets, kernel, certificates)
    }
}

impl Connector {
    /// Takes what the configuration says of versions and certificates. Sessions are not resumed.
    pub fn new(mut config: ClientConfig) -> Self {
        config.enable_secret_extraction = true;
        config.enable_early_data = false;
        config.resumption = Resumption::disabled();
        Self(Arc::new(config))
    }

    /// Does the handshake with the server of this name.
    ///
    /// # Errors
    /// The connection breaks, or the two sides do not agree; what the peer is told of it is sent.
    pub async fn connect(&self, name: ServerName<'static>, mut stream: TcpStream) -> io::Result<Established> {
        let mut connection = UnbufferedClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        let records =
            shake_hands(&mut stream, &mut connection, Common::<ClientConnectionData>::process_tls_records).await?;
        let certificates = owned(connection.peer_certificates());
        let (secrets, kernel) = connection.dangerous_into_kernel_connection().map_err(io::Error::other)?;
        establish(stream, Peer::Server, records, secrets, kernel, certificates)
    }
}

fn owned(certificates: Option<&[CertificateDer<'static>]>) -> Vec<CertificateDer<'static>> {
    certificates.map(<[_]>::to_vec).unwrap_or_default()
}

fn establish<Side: Send + Sync + 'static>(
    stream: TcpStream,
    peer: Peer,
    records: Vec<u8>,
    secrets: ExtractedSecrets,
    kernel: KernelConnection<Side>,
    certificates: Vec<CertificateDer<'static>>,
) -> io::Result<Established> {
    let suite = kernel.negotiated_cipher_suite();
    let keys = Arc::new(Keys::new(kernel));
    let sealer = Sealer::new(suite, secrets.tx).map_err(io::Error::other)?;
    let opener = Opener::new(suite, secrets.rx).map_err(io::Error::other)?;
    let (reading, writing) = stream.into_split();
    Ok(Established {
        reader: TlsReader::new(reading, opener, Arc::clone(&keys), peer, records),
        writer: TlsWriter::new(writing, sealer, keys),
        certificates,
    })
}
