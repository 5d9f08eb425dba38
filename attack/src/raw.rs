//! A peer that sends whatever it wants, right or wrong, behind a real TLS handshake.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, version};
use stepbox_wire::{
    FrameLimits, FramePrefix, PREFIX_BYTES, PROTOCOL_VERSION, Request, RequestId, Response, decode_response,
    encode_request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::answer::Answer;
use crate::arena::Credentials;
use crate::in_time;

/// One end of a TLS connection to a server.
pub struct RawPeer {
    stream: TlsStream<TcpStream>,
    last: RequestId,
    /// Answers that came while another was waited for.
    early: HashMap<RequestId, Response>,
}

/// What a connection greets with.
pub fn hello(protocol: u16) -> Request {
    Request::Hello { protocol, job: String::new() }
}

/// What a connection greets with that wants to another job.
pub fn hello_to(job: &str) -> Request {
    Request::Hello { protocol: PROTOCOL_VERSION, job: job.into() }
}

/// TLS as a client of the server's own authority speaks it.
///
/// # Errors
/// A file cannot be read.
pub fn tls(authority: &Path, credentials: Option<&Credentials>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots);
    let Some(Credentials { certificate, key }) = credentials else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<std::result::Result<Vec<_>, _>>()?;
    let key = ring::sign::any_supported_type(&PrivateKeyDer::from_pem_file(key)?)?;
    // Unlike rustls' own way this sends a certificate also where the key is not its own.
    Ok(builder.with_client_cert_resolver(Arc::new(Always(Arc::new(CertifiedKey::new(chain, key))))))
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Counts attacks, for [`dial`].
static ATTACKS: AtomicU16 = AtomicU16::new(0);

/// From now on the attacker comes from another address.
pub fn move_on() {
    ATTACKS.fetch_add(1, Ordering::Relaxed);
}

/// A connection from the attacker's address of the moment. A server that shuts it out must not shut out whoever works from
/// another. Where a machine has a single loopback address, from that one.
///
/// # Errors
/// There is no connection to be had.
pub async fn dial(server: SocketAddr) -> io::Result<TcpStream> {
    let [high, low] = ATTACKS.load(Ordering::Relaxed).to_be_bytes();
    let socket = TcpSocket::new_v4()?;
    match socket.bind(SocketAddr::from(([127, 66, high, low.saturating_add(1)], 0))) {
        Ok(()) => socket.connect(server).await,
        Err(_) => TcpStream::connect(server).await,
    }
}

impl RawPeer {
    /// Connects. In TLS 1.3 a client whose certificate is refused learns of it only with the first thing it reads.
    ///
    /// # Errors
    /// What the connection ends with.
    pub async fn connect(address: SocketAddr, tls: ClientConfig) -> io::Result<Self> {
        let stream = dial(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(address.ip());
        let connecting = TlsConnector::from(Arc::new(tls)).connect(name, stream);
        let stream = in_time(connecting).await.map_err(io::Error::other)??;
        Ok(Self { stream, last: 0, early: HashMap::new() })
    }

    /// Connects and says hello.
    ///
    /// # Errors
    /// The server does not welcome it.
    pub async fn greeted(address: SocketAddr, tls: ClientConfig) -> Result<Self> {
        let mut peer = Self::connect(address, tls).await?;
        match peer.call(&hello(PROTOCOL_VERSION), &[]).await? {
            Some(Response::Welcome { .. }) => Ok(peer),
            other => bail!("not welcome: {other:?}"),
        }
    }

    /// Connects, says hello and registers as the certificate's worker.
    ///
    /// # Errors
    /// The server does not register it.
    pub async fn registered(address: SocketAddr, tls: ClientConfig) -> Result<Self> {
        let mut peer = Self::greeted(address, tls).await?;
        match peer.call(&Request::Register, &[]).await? {
            Some(Response::Registered { .. }) => Ok(peer),
            other => bail!("not registered: {other:?}"),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is gone, or takes none.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        in_time(writing).await.map_err(io::Error::other)?
    }

    /// Sends a request with a body of any length, right or wrong; returns its id.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn ask(&mut self, request: &Request, body: &[u8]) -> io::Result<RequestId> {
        self.last += 1;
        let frame = [&encode_request(self.last, request, body.len() as u64), body].concat();
        self.send(&frame).await?;
        Ok(self.last)
    }

    /// Sends a request and waits for its answer; `None` where the server closed the connection instead. An answer to
    /// no request at all, which is the last one of a connection, counts.
    ///
    /// # Errors
    /// What came is no answer, or the connection broke.
    pub async fn call(&mut self, request: &Request, body: &[u8]) -> Result<Option<Response>> {
        let id = self.ask(request, body).await?;
        self.answer_to(id).await
    }

    /// Waits for the answer to a request.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn answer_to(&mut self, id: RequestId) -> Result<Option<Response>> {
        if let Some(response) = self.early.remove(&id) {
            return Ok(Some(response));
        }
        loop {
            match self.receive().await? {
                Some((answered, response)) if answered == id || answered == 0 => return Ok(Some(response)),
                Some((answered, response)) => {
                    ensure!(self.early.len() < 100_000, "the server answers what nobody asked");
                    self.early.insert(answered, response);
                }
                None => return Ok(None),
            }
        }
    }

    /// Sends a request and says what came of it.
    ///
    /// # Errors
    /// What came is no answer.
    pub async fn try_call(&mut self, request: &Request, body: &[u8]) -> Result<Answer> {
        // The server may close before it has read everything; its reason is still there to be read.
        let _ = self.ask(request, body).await;
        self.outcome().await
    }

    /// What the server says next, whatever it answers.
    ///
    /// # Errors
    /// What came is no answer.
    pub async fn outcome(&mut self) -> Result<Answer> {
        match self.receive().await {
            Ok(answer) => Ok(Answer::of_response(answer.map(|(_, response)| response))),
            Err(error) => match error.downcast::<io::Error>() {
                Ok(error) => Ok(Answer::of_error(&error)),
                Err(error) => Err(error),
            },
        }
    }

    /// The next answer, without its body; `None` where the server has closed the connection.
    ///
    /// # Errors
    /// What came is no answer, or the connection broke.
    pub async fn receive(&mut self) -> Result<Option<(RequestId, Response)>> {
        let mut prefix = [0; PREFIX_BYTES];
        match in_time(self.stream.read_exact(&mut prefix)).await.context("the server does not answer")? {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let prefix = FramePrefix::decode(&prefix, &FrameLimits::default())?;
        let mut header = vec![0; prefix.header_bytes as usize];
        in_time(self.stream.read_exact(&mut header)).await??;
        let mut body = vec![0; usize::try_from(prefix.body_bytes)?];
        in_time(self.stream.read_exact(&mut body)).await??;
        Ok(Some(decode_response(&header)?))
    }
}
