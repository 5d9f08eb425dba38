//! The baseline: the same bytes through rustls as it comes, on blocking sockets, one thread at each end.
//!
//! They go one way, towards the thread that measures, for a push as for a pull. The other way is only half as fast here and
//! there: where rustls' buffers lie unfavourably to each other, the C library's copies (`rep movsb`) are slow, which would
//! flatter whatever is compared with it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned, version};

use super::MeasurementError;
use crate::job::Credentials;

/// Encrypted at a time, and sent with one system call.
const PIECE_BYTES: usize = 256 << 10;

/// Two threads that are connected.
pub(super) struct Pipe {
    stream: StreamOwned<ClientConnection, TcpStream>,
    far: JoinHandle<io::Result<()>>,
    go: Sender<()>,
    target: Vec<u8>,
}

impl Pipe {
    /// With the provider, the versions and the cipher suite that a server and a client of ours agree on.
    pub fn connect(bytes: usize, server: &Credentials, client: &Credentials) -> Result<Self, MeasurementError> {
        let provider = Arc::new(stepbox_tls::provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&server.authority)?)?;
        let roots = Arc::new(roots);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
        let server_side = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_file(&server.certificate)?],
                PrivateKeyDer::from_pem_file(&server.key)?,
            )?;
        let client_side = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&client.certificate)?],
                PrivateKeyDer::from_pem_file(&client.key)?,
            )?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (go, going) = channel::<()>();
        let far = std::thread::Builder::new().name("pipe".into()).spawn(move || {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let connection = ServerConnection::new(Arc::new(server_side)).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(connection, stream);
            stream.conn.set_buffer_limit(Some(PIECE_BYTES));
            let memory = vec![1; bytes];
            while going.recv().is_ok() {
                for piece in memory.chunks(PIECE_BYTES) {
                    stream.write_all(piece)?;
                }
                stream.flush()?;
            }
            Ok(())
        })?;
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").map_err(|error| io::Error::other(error.to_string()))?;
        let mut connection = ClientConnection::new(Arc::new(client_side), name)?;
        connection.set_buffer_limit(Some(PIECE_BYTES));
        let stream = StreamOwned::new(connection, stream);
        Ok(Self { stream, far, go, target: vec![0; bytes] })
    }

    /// Moves all bytes once. Returns how long it took.
    pub fn transfer(&mut self) -> Result<Duration, MeasurementError> {
        let since = Instant::now();
        // An end that is gone shows at the socket.
        let _ = self.go.send(());
        self.stream.read_exact(&mut self.target)?;
        Ok(since.elapsed())
    }

    /// Ends the other thread.
    pub fn close(self) -> Result<(), MeasurementError> {
        drop(self.go);
        self.far.join().map_err(|_| crate::job::JobError::Panicked)??;
        Ok(())
    }
}
