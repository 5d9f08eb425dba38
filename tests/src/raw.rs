//! A peer that sends whatever a test requires, valid or invalid.

use std::io;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, version};
use stepbox_wire::{
    FrameLimits, FramePrefix, PREFIX_BYTES, PROTOCOL_VERSION, Request, RequestId, Response, decode_response,
    encode_request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::Credentials;
use crate::in_time;
use crate::server::TestServer;

/// The client end of a TLS connection to a server.
pub struct RawPeer {
    stream: TlsStream<TcpStream>,
}

impl RawPeer {
    /// Connects with a certificate, or without one.
    pub async fn connect(server: &TestServer, credentials: Option<&Credentials>) -> io::Result<Self> {
        Self::over(TcpStream::connect(server.address).await?, server, credentials).await
    }

    /// As [`connect`](Self::connect), over an existing TCP connection.
    pub async fn over(stream: TcpStream, server: &TestServer, credentials: Option<&Credentials>) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(server.authority.certificate()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match credentials {
            None => builder.with_no_client_auth(),
            Some(credentials) => {
                let chain = vec![CertificateDer::from_pem_file(&credentials.certificate).unwrap()];
                let key = PrivateKeyDer::from_pem_file(&credentials.key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = in_time(TlsConnector::from(Arc::new(config)).connect(name, stream)).await?;
        Ok(Self { stream })
    }

    /// Connects a peer with a role, and completes the greeting.
    pub async fn greeted(server: &TestServer, role: &str) -> Self {
        let mut peer = Self::connect(server, Some(&server.credentials(role))).await.unwrap();
        peer.ask(1, &Request::Hello { protocol: PROTOCOL_VERSION, job: String::new() }, &[]).await;
        let (id, response) = peer.receive().await.unwrap();
        assert_eq!(id, 1);
        assert!(matches!(response, Response::Welcome { .. }), "{response:?}");
        peer
    }

    /// Connects a worker and registers it.
    pub async fn registered(server: &TestServer, rank: usize) -> Self {
        let mut peer = Self::greeted(server, &format!("worker-{rank}")).await;
        peer.ask(2, &Request::Register, &[]).await;
        let (_, response) = peer.receive().await.unwrap();
        assert!(matches!(response, Response::Registered { .. }), "{response:?}");
        peer
    }

    /// Closes the sending direction. The peer can still receive.
    pub async fn end(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// The certificate that the server presented.
    pub fn servers_certificate(&self) -> Vec<u8> {
        let (_, connection) = self.stream.get_ref();
        connection.peer_certificates().expect("the handshake is done")[0].to_vec()
    }

    /// Sends bytes unchanged.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends a request with a body of any length.
    pub async fn ask(&mut self, id: RequestId, request: &Request, body: &[u8]) {
        self.send(&encode_request(id, request, body.len() as u64)).await.unwrap();
        self.send(body).await.unwrap();
    }

    /// Receives the next answer, without its body; `None` if the server has closed the connection.
    pub async fn receive(&mut self) -> Option<(RequestId, Response)> {
        let mut prefix = [0; PREFIX_BYTES];
        match in_time(self.stream.read_exact(&mut prefix)).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("no answer: {error}"),
        }
        let prefix = FramePrefix::decode(&prefix, &FrameLimits::default()).unwrap();
        let mut header = vec![0; prefix.header_bytes as usize];
        in_time(self.stream.read_exact(&mut header)).await.unwrap();
        let mut body = vec![0; prefix.body_bytes as usize];
        in_time(self.stream.read_exact(&mut body)).await.unwrap();
        Some(decode_response(&header).unwrap())
    }

    /// Waits until the next answer begins, and consumes its first byte.
    pub async fn first_byte(&mut self) {
        in_time(self.stream.read_u8()).await.expect("an answer");
    }

    /// The error with which the connection ends if TLS itself rejects the peer.
    pub async fn rejection(&mut self) -> io::Error {
        in_time(self.stream.read_u8()).await.expect_err("the connection ends with an alert")
    }

    /// Receives the next answer, which must be a failure.
    pub async fn refusal(&mut self) -> (RequestId, stepbox_wire::Failure) {
        match self.receive().await {
            Some((id, Response::Failed(failure))) => (id, failure),
            other => panic!("not refused: {other:?}"),
        }
    }
}
