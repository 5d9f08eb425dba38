//! A peer with a real certificate behind real TLS that says what a test tells it to, right or wrong.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, version};
use stepbox_client::ClientConfig;
use stepbox_wire::{
    DEFAULT_JOB, FrameLimits, FramePrefix, PREFIX_BYTES, PROTOCOL_VERSION, Request, RequestId, Response,
    decode_request, encode_response,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// An authority and what it has signed.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A certificate for `name` and its key, as PEM files; gives the certificate's and key's DER too.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        (certificate, key)
    }

    /// How a client with a certificate of this authority reaches a peer.
    pub fn client(&self, server: SocketAddr) -> ClientConfig {
        self.issue("worker");
        let file = |name: &str| self.path().join(name);
        let mut config = ClientConfig::new(server.to_string(), file("ca.pem"), file("worker.pem"), file("worker.key"));
        config.server_name = Some("peer.test".into());
        // Far beyond what loopback takes: reached only where a test waits for a time-out, and then set lower.
        config.request_timeout = Duration::from_secs(60);
        config
    }

    /// Listens as `peer.test`, accepts one connection, and lets `conversation` have it.
    pub async fn peer<Conversation, Running>(&self, conversation: Conversation) -> (SocketAddr, JoinHandle<()>)
    where
        Conversation: FnOnce(Peer) -> Running + Send + 'static,
        Running: Future<Output = ()> + Send,
    {
        let (certificate, key) = self.issue("peer.test");
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build().unwrap();
        let tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that is not let in is the client's test to judge.
            if let Ok(stream) = TlsAcceptor::from(Arc::new(tls)).accept(stream).await {
                conversation(Peer { stream }).await;
            }
        });
        (address, running)
    }
}

/// The far end of a connection.
pub struct Peer {
    pub stream: TlsStream<TcpStream>,
}

impl Peer {
    /// The next request.
    pub async fn receive(&mut self) -> (RequestId, Request, Vec<u8>) {
        let mut prefix = [0; PREFIX_BYTES];
        self.stream.read_exact(&mut prefix).await.unwrap();
        let prefix = FramePrefix::decode(&prefix, &FrameLimits::default()).unwrap();
        let mut header = vec![0; prefix.header_bytes as usize];
        self.stream.read_exact(&mut header).await.unwrap();
        let (id, request) = decode_request(&header).unwrap();
        request.check_body(prefix.body_bytes).unwrap();
        let mut body = vec![0; prefix.body_bytes as usize];
        self.stream.read_exact(&mut body).await.unwrap();
        (id, request, body)
    }

    pub async fn answer(&mut self, id: RequestId, response: &Response, body: &[u8]) {
        let head = encode_response(id, response, body.len() as u64);
        self.send(&head).await;
        self.send(body).await;
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Lets a client in.
    pub async fn welcome(mut self) -> Self {
        let (id, request, _) = self.receive().await;
        assert_eq!(request, Request::Hello { protocol: PROTOCOL_VERSION, job: DEFAULT_JOB.into() });
        let welcome = Response::Welcome { protocol: PROTOCOL_VERSION, identity: "worker".into() };
        self.answer(id, &welcome, &[]).await;
        self
    }

    /// Waits until the client closes.
    pub async fn wait_for_close(mut self) {
        let mut byte = [0];
        while !matches!(self.stream.read(&mut byte).await, Ok(0) | Err(_)) {}
    }
}
