//! Against rustls as it comes, at the other end of a TCP connection.

mod forged;
mod handshake;
mod sound;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::DerefMut;
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{AeadKey, Iv, MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CipherSuiteCommon, ClientConfig, ClientConnection, ConnectionCommon, ConnectionTrafficSecrets, ContentType,
    ExtractedSecrets, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, SideData, StreamOwned,
    SupportedCipherSuite, Tls13CipherSuite, version,
};
use stepbox_tls::{Acceptor, Connector, Established, TlsReader, provider};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Reached only where something hangs.
const HANGS: Duration = Duration::from_secs(60);

/// An authority and certificates for both sides.
struct Certificates {
    roots: Arc<RootCertStore>,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).expect("a root");
        Self { roots: Arc::new(roots), issuer }
    }

    fn issue(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    }

    fn server(&self, provider: CryptoProvider) -> ServerConfig {
        let provider = Arc::new(provider);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&provider));
        let (chain, key) = self.issue();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .expect("a version")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a certificate");
        config.enable_secret_extraction = true;
        config
    }

    fn client(&self, provider: CryptoProvider) -> ClientConfig {
        let (chain, key) = self.issue();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13])
            .expect("a version")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(chain, key)
            .expect("a certificate");
        config.enable_secret_extraction = true;
        config
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").expect("a name")
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A connected pair of sockets, the first for tokio.
fn sockets() -> (tokio::net::TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let far = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    far.set_read_timeout(Some(HANGS)).expect("a time-out");
    let (near, _) = listener.accept().expect("a connection");
    near.set_nonblocking(true).expect("a mode");
    (tokio::net::TcpStream::from_std(near).expect("a runtime"), far)
}

type Far<Side> = StreamOwned<Side, TcpStream>;

/// Accepts what rustls' own client connects, which then does something.
async fn accept<T: Send + 'static>(
    far_does: impl FnOnce(Far<ClientConnection>) -> T + Send + 'static,
) -> (Established, JoinHandle<T>) {
    let certificates = Certificates::new();
    let (near, far) = sockets();
    let client = Arc::new(certificates.client(provider()));
    let far =
        spawn(move || far_does(StreamOwned::new(ClientConnection::new(client, name()).expect("a configuration"), far)));
    let established = Acceptor::new(certificates.server(provider())).accept(near).await.expect("a handshake");
    (established, far)
}

/// Connects to rustls' own server, which then does something.
async fn connect<T: Send + 'static>(
    far_does: impl FnOnce(Far<ServerConnection>) -> T + Send + 'static,
) -> (Established, JoinHandle<T>) {
    let certificates = Certificates::new();
    let (near, far) = sockets();
    let server = Arc::new(certificates.server(provider()));
    let far = spawn(move || far_does(StreamOwned::new(ServerConnection::new(server).expect("a configuration"), far)));
    let connector = Connector::new(certificates.client(provider()));
    let established = connector.connect(name(), near).await.expect("a handshake");
    (established, far)
}

/// Reads as many bytes as it will send back.
fn echo<Side: SideData>(
    mut stream: Far<impl DerefMut<Target = ConnectionCommon<Side>>>,
    count: usize,
    piece: usize,
) -> io::Result<()> {
    let mut received = vec![0; count];
    stream.read_exact(&mut received)?;
    for piece in received.chunks(piece) {
        stream.write_all(piece)?;
    }
    stream.flush()?;
    stream.conn.send_close_notify();
    stream.flush()
}

async fn there_and_back(established: Established, count: usize, piece: usize) {
    let Established { mut reader, mut writer, certificates } = established;
    assert_eq!(certificates.len(), 1, "the peer's certificate is known");
    let sent = bytes(count);
    for piece in sent.chunks(piece) {
        writer.write_all(piece).await.expect("it is taken");
    }
    writer.flush().await.expect("it is sent");
    let mut received = vec![0; count];
    for piece in received.chunks_mut(piece) {
        reader.read_exact(piece).await.expect("it comes back");
    }
    assert!(received == sent, "other bytes came back");
    assert_eq!(reader.read(&mut [0]).await.expect("a goodbye"), 0);
    assert_eq!(reader.read(&mut [0]).await.expect("it stays closed"), 0);
    writer.shutdown().await.expect("a goodbye");
}
