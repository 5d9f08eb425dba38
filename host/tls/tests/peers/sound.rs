//! Peers that do what they should, and connections that do not.

use super::*;

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
