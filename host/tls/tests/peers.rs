//! Against rustls as it comes, at the other end of a TCP connection.

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

#[tokio::test]
async fn bytes_come_as_they_were_sent_in_pieces_of_any_size() {
    for (count, piece) in [(1, 1), (1000, 7), (16_384, 16_384), (16_385, 4096), (700_000, 100_001), (5 << 20, 1 << 20)]
    {
        let (established, far) = accept(move |far| echo(far, count, piece)).await;
        there_and_back(established, count, piece).await;
        far.join().expect("no panic").expect("no error");
        let (established, far) = connect(move |far| echo(far, count, piece)).await;
        there_and_back(established, count, piece).await;
        far.join().expect("no panic").expect("no error");
    }
}

#[tokio::test]
async fn what_comes_right_behind_the_handshake_is_not_lost() {
    for count in [1, 20_000, 300_000] {
        // A client's first bytes leave with the end of its handshake.
        let (Established { mut reader, .. }, far) = accept(move |mut far| {
            far.conn.set_buffer_limit(None);
            far.conn.writer().write_all(&bytes(count)).expect("it is buffered");
            far.flush().expect("it is sent");
            far
        })
        .await;
        let mut received = vec![0; count];
        reader.read_exact(&mut received).await.expect("all of it");
        assert!(received == bytes(count));
        drop(far.join().expect("no panic"));
    }
}

#[tokio::test]
async fn a_peer_may_change_its_keys_and_have_ours_changed() {
    const ROUNDS: usize = 5;
    let (Established { mut reader, mut writer, .. }, far) = accept(|mut far| {
        for round in 0..ROUNDS {
            let mut received = vec![0; 50_000];
            far.write_all(&bytes(50_000 + round))?;
            // Changes the keys of what is sent, and asks for the same.
            far.conn.refresh_traffic_keys().expect("after the handshake");
            far.flush()?;
            far.read_exact(&mut received)?;
            assert!(received == bytes(50_000), "round {round}");
        }
        Ok::<_, io::Error>(())
    })
    .await;
    for round in 0..ROUNDS {
        let mut received = vec![0; 50_000 + round];
        reader.read_exact(&mut received).await.expect("it can be read");
        assert!(received == bytes(50_000 + round));
        writer.write_all(&bytes(50_000)).await.expect("it is taken");
        writer.flush().await.expect("it is sent");
    }
    far.join().expect("no panic").expect("no error");
    // What the peer has asked for last may come behind what is read last.
    assert!(writer.key_updates() >= ROUNDS as u64 - 1, "{} key updates", writer.key_updates());
}

/// Suites whose keys last for a few records only: what is set apart for what goes out meanwhile, and two more.
fn short_lived() -> CryptoProvider {
    let mut provider = provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    for suite in &mut provider.cipher_suites {
        let tls13 = suite.tls13().expect("the others are gone");
        let common = CipherSuiteCommon { confidentiality_limit: 1024 + 2, ..short(tls13) };
        *suite = SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
            common,
            hkdf_provider: tls13.hkdf_provider,
            aead_alg: tls13.aead_alg,
            quic: None,
        })));
    }
    provider
}

fn short(suite: &Tls13CipherSuite) -> CipherSuiteCommon {
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = suite.common;
    CipherSuiteCommon { suite, hash_provider, confidentiality_limit }
}

#[tokio::test]
async fn keys_are_changed_before_they_are_worn() {
    const COUNT: usize = 1 << 20;
    let certificates = Certificates::new();
    let (near, far) = sockets();
    let client = Arc::new(certificates.client(provider()));
    let far = spawn(move || {
        let mut far = StreamOwned::new(ClientConnection::new(client, name()).expect("a configuration"), far);
        let mut received = vec![0; COUNT];
        far.read_exact(&mut received)?;
        Ok::<_, io::Error>(received)
    });
    let established = Acceptor::new(certificates.server(short_lived())).accept(near).await.expect("a handshake");
    let mut writer = established.writer;
    // 64 records by keys for two: rustls at the other end follows, or fails.
    writer.write_all(&bytes(COUNT)).await.expect("it is taken");
    writer.flush().await.expect("it is sent");
    assert!(far.join().expect("no panic").expect("no error") == bytes(COUNT));
    assert!(writer.key_updates() >= 30, "{} key updates", writer.key_updates());
}

#[tokio::test]
async fn an_end_without_a_goodbye_is_told_from_one_with() {
    let (Established { mut reader, .. }, far) = accept(|mut far| {
        far.write_all(b"to be continued").expect("it is sent");
        far.sock.shutdown(Shutdown::Write).expect("an end");
        far
    })
    .await;
    let mut received = Vec::new();
    let error = reader.read_to_end(&mut received).await.expect_err("cut off");
    assert_eq!((error.kind(), &*received), (io::ErrorKind::UnexpectedEof, &b"to be continued"[..]));
    drop(far.join().expect("no panic"));
}

#[tokio::test]
async fn a_changed_bit_ends_the_connection_behind_what_was_good() {
    let certificates = Certificates::new();
    let (near, inner) = sockets();
    let (outer, far) = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let far = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        (listener.accept().expect("a connection").0, far)
    };
    let client = Arc::new(certificates.client(provider()));
    let far = spawn(move || {
        let mut far = StreamOwned::new(ClientConnection::new(client, name()).expect("a configuration"), far);
        far.write_all(b"good").expect("it is sent");
        far.flush().expect("it is sent");
        // The server's answer says that the man in the middle has let this through.
        far.read_exact(&mut [0]).expect("an answer");
        far.write_all(b"evil").expect("it is sent");
        far
    });
    // In the middle: all as it is, until the server has answered; then the last byte of what comes is another.
    let (mut from_client, mut to_server) = (outer.try_clone().expect("a socket"), inner.try_clone().expect("a socket"));
    let (mut from_server, mut to_client) = (inner, outer);
    spawn(move || io::copy(&mut from_server, &mut to_client));
    let (change, changes) = std::sync::mpsc::channel::<()>();
    spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from_client.read(&mut buffer) {
            if changes.try_recv().is_ok() {
                buffer[count - 1] ^= 1;
            }
            if to_server.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    });
    let established = Acceptor::new(certificates.server(provider())).accept(near).await.expect("a handshake");
    let Established { mut reader, mut writer, .. } = established;
    let mut received = [0; 4];
    reader.read_exact(&mut received).await.expect("nothing is wrong with it");
    assert_eq!(&received, b"good");
    change.send(()).expect("it is there");
    writer.write_all(b"!").await.expect("it is taken");
    writer.flush().await.expect("it is sent");
    let error = reader.read(&mut received).await.expect_err("it was changed");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert_eq!(&received, b"good", "nothing of it is handed over");
    drop((reader, writer));
    drop(far.join().expect("no panic"));
}

#[tokio::test]
async fn who_is_certified_by_another_is_told_so() {
    let (ours, others) = (Certificates::new(), Certificates::new());
    let (near, far) = sockets();
    let mut client = others.client(provider());
    client.dangerous().set_certificate_verifier(
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::clone(&ours.roots), Arc::new(provider()))
            .build()
            .expect("a verifier"),
    );
    let far = spawn(move || {
        let connection = ClientConnection::new(Arc::new(client), name()).expect("a configuration");
        StreamOwned::new(connection, far).read(&mut [0])
    });
    let refused = Acceptor::new(ours.server(provider())).accept(near).await.err().expect("nobody we know");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{refused}");
    let told = far.join().expect("no panic").expect_err("refused");
    assert!(told.to_string().contains("alert"), "{told}");
}

// Peers that mean no good, or stand on their rights.

/// Sends records with anything in them, by the keys of a connection of rustls' own.
struct Forger {
    socket: TcpStream,
    encrypter: Box<dyn MessageEncrypter>,
    next: u64,
}

impl Forger {
    fn client(mut far: Far<ClientConnection>) -> Self {
        far.conn.complete_io(&mut far.sock).expect("a handshake");
        let suite = far.conn.negotiated_cipher_suite().expect("after the handshake");
        Self::new(far.sock, suite, far.conn.dangerous_extract_secrets().expect("it is allowed"))
    }

    fn server(mut far: Far<ServerConnection>) -> Self {
        far.conn.complete_io(&mut far.sock).expect("a handshake");
        far.flush().expect("its tickets are sent");
        let suite = far.conn.negotiated_cipher_suite().expect("after the handshake");
        Self::new(far.sock, suite, far.conn.dangerous_extract_secrets().expect("it is allowed"))
    }

    fn new(socket: TcpStream, suite: SupportedCipherSuite, secrets: ExtractedSecrets) -> Self {
        let (next, secrets) = secrets.tx;
        let (key, iv): (AeadKey, Iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
            _ => panic!("{suite:?}"),
        };
        Self { socket, encrypter: suite.tls13().expect("the version").aead_alg.encrypter(key, iv), next }
    }

    fn send(&mut self, content_type: ContentType, content: &[u8]) {
        let payload = OutboundChunks::Single(content);
        let message = OutboundPlainMessage { typ: content_type, version: ProtocolVersion::TLSv1_2, payload };
        let record = self.encrypter.encrypt(message, self.next).expect("it fits").encode();
        self.next += 1;
        self.socket.write_all(&record).expect("it is sent");
    }
}

/// Reads nothing, twice, because what comes is refused.
async fn refuses(reader: &mut TlsReader) -> io::Error {
    let mut buffer = [0; 16];
    let first = reader.read(&mut buffer).await.expect_err("it is refused");
    assert_eq!(first.kind(), io::ErrorKind::InvalidData, "{first}");
    let again = reader.read(&mut buffer).await.expect_err("nothing behind it is read");
    assert_eq!((again.kind(), again.to_string()), (first.kind(), first.to_string()));
    first
}

const A_TICKET: [u8; 4] = [4, 0, 0, 0];
const USER_CANCELED: [u8; 2] = [1, 90];

#[tokio::test]
async fn records_without_data_are_taken_up_to_32_in_a_row() {
    async fn check(mut reader: TlsReader, far: JoinHandle<Forger>) {
        let mut received = [0; 2];
        reader.read_exact(&mut received).await.expect("32 before each are no flood");
        assert_eq!(&received, b"ab");
        let error = refuses(&mut reader).await;
        assert!(error.to_string().contains("more than 32 TLS records"), "{error}");
        drop(far.join().expect("no panic"));
    }
    fn flood(mut forger: Forger, content_type: ContentType, content: &[u8]) -> Forger {
        for (count, data) in [(32, b"a"), (32, b"b"), (33, b"c")] {
            for _ in 0..count {
                forger.send(content_type, content);
            }
            forger.send(ContentType::ApplicationData, data);
        }
        forger
    }
    let (established, far) = accept(|far| flood(Forger::client(far), ContentType::ApplicationData, &[])).await;
    check(established.reader, far).await;
    let (established, far) = accept(|far| flood(Forger::client(far), ContentType::Alert, &USER_CANCELED)).await;
    check(established.reader, far).await;
    // rustls' own server has sent tickets before, which count as well.
    let (established, far) = connect(|far| {
        let mut forger = Forger::server(far);
        forger.send(ContentType::ApplicationData, b"!");
        flood(forger, ContentType::Handshake, &A_TICKET)
    })
    .await;
    let mut reader = established.reader;
    reader.read_exact(&mut [0]).await.expect("it is there");
    check(reader, far).await;
}

#[tokio::test]
async fn keys_are_changed_up_to_32_times_without_data() {
    let (Established { mut reader, mut writer, .. }, far) = accept(|mut far| {
        far.conn.complete_io(&mut far.sock).expect("a handshake");
        for (count, data) in [(32, b"a"), (32, b"b"), (33, b"c")] {
            for _ in 0..count {
                far.conn.refresh_traffic_keys().expect("after the handshake");
            }
            far.write_all(data).expect("it is sent");
        }
        far.flush().expect("it is sent");
        far.read(&mut [0]).expect_err("refused").to_string()
    })
    .await;
    let mut received = [0; 2];
    reader.read_exact(&mut received).await.expect("32 before each are no flood");
    assert_eq!(&received, b"ab");
    let error = refuses(&mut reader).await;
    assert!(error.to_string().contains("more than 32 TLS records"), "{error}");
    writer.shutdown().await.expect("the peer is told");
    let told = far.join().expect("no panic");
    assert!(told.contains("UnexpectedMessage"), "{told}");
}

#[tokio::test]
async fn messages_that_have_no_place_after_the_handshake_are_refused() {
    const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
    let cases: [(&[&[u8]], &str); 7] = [
        // From a client.
        (&[&A_TICKET], "NewSessionTicket"),
        (&[&[]], "InvalidEmptyPayload"),
        // A client's hello.
        (&[&[1, 0, 0, 0]], "ClientHello"),
        (&[&[24, 0, 0, 1, 2]], "InvalidKeyUpdate"),
        (&[&[KEY_UPDATE, KEY_UPDATE].concat()], "KeyEpochWithPendingFragment"),
        (&[&KEY_UPDATE[..2], &KEY_UPDATE[2..]], "not all in one record"),
        (&[&KEY_UPDATE[..4], &KEY_UPDATE[4..]], "not all in one record"),
    ];
    for (records, reason) in cases {
        let records: Vec<_> = records.iter().map(|record| record.to_vec()).collect();
        let (Established { mut reader, .. }, far) = accept(move |far| {
            let mut forger = Forger::client(far);
            forger.send(ContentType::ApplicationData, b"good");
            for record in records {
                forger.send(ContentType::Handshake, &record);
            }
            forger.send(ContentType::ApplicationData, b"behind it");
            forger
        })
        .await;
        let mut received = [0; 4];
        reader.read_exact(&mut received).await.expect("what was good");
        assert_eq!(&received, b"good");
        let error = refuses(&mut reader).await;
        assert!(error.to_string().contains(reason), "{error}, not {reason}");
        drop(far.join().expect("no panic"));
    }
}

#[tokio::test]
async fn nothing_is_read_behind_a_fatal_alert() {
    let (Established { mut reader, .. }, far) = accept(|far| {
        let mut forger = Forger::client(far);
        forger.send(ContentType::Alert, &[2, 80]);
        forger.send(ContentType::ApplicationData, b"behind it");
        forger
    })
    .await;
    let error = refuses(&mut reader).await;
    assert!(error.to_string().contains("InternalError"), "{error}");
    drop(far.join().expect("no panic"));
}

#[tokio::test]
async fn the_peer_is_told_what_was_wrong_with_its_records() {
    let cases: [(&[u8], &str); 3] = [
        (b"GET / HTTP/1.1\r\n\r\n", "UnexpectedMessage"),
        (&[23, 3, 3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "BadRecordMac"),
        (&[23, 3, 3, 0xff, 0xff], "RecordOverflow"),
    ];
    for (record, alert) in cases {
        let (Established { mut reader, mut writer, .. }, far) = accept(move |mut far| {
            far.conn.complete_io(&mut far.sock).expect("a handshake");
            far.sock.write_all(record).expect("it is sent");
            far.read(&mut [0]).expect_err("refused").to_string()
        })
        .await;
        refuses(&mut reader).await;
        writer.shutdown().await.expect("the peer is told");
        let told = far.join().expect("no panic");
        assert!(told.contains(alert), "{told}, not {alert}");
    }
}

#[tokio::test]
async fn nothing_is_written_behind_the_goodbye() {
    let (Established { mut writer, .. }, far) = accept(|mut far| {
        let mut received = Vec::new();
        far.read_to_end(&mut received).map(|_| received)
    })
    .await;
    writer.write_all(b"all there is").await.expect("it is taken");
    writer.shutdown().await.expect("a goodbye");
    let error = writer.write(b"more").await.expect_err("it would be lost");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(far.join().expect("no panic").expect("a goodbye"), b"all there is");
}

/// Goes on to where the client's part of the handshake would be sent, has `more` follow, and sends both at once.
fn finish_with(far: &mut Far<ClientConnection>, more: impl FnOnce(&mut ClientConnection)) {
    let Far { conn, sock } = far;
    while conn.is_handshaking() {
        while conn.wants_write() {
            conn.write_tls(sock).expect("it is sent");
        }
        conn.read_tls(sock).expect("the server's part");
        conn.process_new_packets().expect("nothing is wrong with it");
    }
    more(conn);
    let mut segment = Vec::new();
    while conn.wants_write() {
        conn.write_tls(&mut segment).expect("there is room");
    }
    sock.write_all(&segment).expect("it is sent");
}

#[tokio::test]
async fn keys_may_change_right_behind_the_handshake() {
    let (Established { mut reader, mut writer, .. }, far) = accept(|mut far| {
        finish_with(&mut far, |conn| {
            // Asks for new keys in return.
            conn.refresh_traffic_keys().expect("after the handshake");
            conn.writer().write_all(b"question").expect("it is buffered");
        });
        let mut received = [0; 6];
        far.read_exact(&mut received).map(|()| received)
    })
    .await;
    let mut received = [0; 8];
    reader.read_exact(&mut received).await.expect("all of it");
    assert_eq!(&received, b"question");
    writer.write_all(b"answer").await.expect("it is taken");
    writer.flush().await.expect("it is sent");
    assert_eq!(&far.join().expect("no panic").expect("by the keys it has asked for"), b"answer");
    assert_eq!(writer.key_updates(), 1);
}

#[tokio::test]
async fn a_goodbye_right_behind_the_handshake_loses_nothing() {
    for sent in [&b"all there is"[..], b""] {
        let (Established { mut reader, .. }, far) = accept(move |mut far| {
            finish_with(&mut far, |conn| {
                conn.writer().write_all(sent).expect("it is buffered");
                conn.send_close_notify();
            });
            far
        })
        .await;
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.expect("a goodbye");
        assert_eq!(received, sent);
        drop(far.join().expect("no panic"));
    }
}

#[tokio::test]
async fn what_was_wrong_counts_where_the_peer_cannot_be_told() {
    let (near, mut far) = sockets();
    let near = near.into_std().expect("a socket");
    near.shutdown(Shutdown::Write).expect("nothing more is sent");
    let near = tokio::net::TcpStream::from_std(near).expect("a runtime");
    // A `finished`, before anything else.
    far.write_all(b"\x16\x03\x01\0\x04\x14\0\0\0").expect("it is sent");
    let acceptor = Acceptor::new(Certificates::new().server(provider()));
    let error = acceptor.accept(near).await.err().expect("no handshake");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[tokio::test]
async fn a_server_need_not_ask_for_certificates() {
    let certificates = Certificates::new();
    let (near, far) = sockets();
    let client = Arc::new(certificates.client(provider()));
    let far = spawn(move || {
        let connection = ClientConnection::new(client, name()).expect("a configuration");
        echo(StreamOwned::new(connection, far), 3, 3)
    });
    let (chain, key) = certificates.issue();
    let mut server = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&version::TLS13])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    // That it may send before the client's part has come changes nothing.
    server.send_half_rtt_data = true;
    let established = Acceptor::new(server).accept(near).await.expect("a handshake");
    let Established { mut reader, mut writer, certificates } = established;
    assert!(certificates.is_empty(), "nobody has shown any");
    writer.write_all(b"abc").await.expect("it is taken");
    writer.flush().await.expect("it is sent");
    let mut received = [0; 3];
    reader.read_exact(&mut received).await.expect("it comes back");
    assert_eq!(&received, b"abc");
    far.join().expect("no panic").expect("no error");
}

/// Writes one byte at a time.
struct Dribbling(TcpStream);

impl Read for Dribbling {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Dribbling {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[tokio::test]
async fn the_handshake_may_come_in_the_smallest_pieces() {
    let certificates = Certificates::new();
    let (near, far) = sockets();
    far.set_nodelay(true).expect("a mode");
    // Messages that take many records, and records that take many segments.
    let mut client = certificates.client(provider());
    client.max_fragment_size = Some(32);
    let client = ClientConnection::new(Arc::new(client), name()).expect("a configuration");
    let far = spawn(move || {
        let mut far = StreamOwned::new(client, Dribbling(far));
        far.write_all(&bytes(1000))?;
        far.flush()?;
        Ok::<_, io::Error>(far)
    });
    let established = Acceptor::new(certificates.server(provider())).accept(near).await.expect("a handshake");
    let Established { mut reader, writer, certificates } = established;
    assert_eq!(certificates.len(), 1, "the peer's certificate is known");
    let mut received = vec![0; 1000];
    reader.read_exact(&mut received).await.expect("all of it");
    assert!(received == bytes(1000));
    drop((writer, far.join().expect("no panic").expect("no error")));
}
