//! What comes with the end of the handshake, or instead of it.

use super::*;

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
