//! Peers that mean no good, or stand on their rights.

use super::*;

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
