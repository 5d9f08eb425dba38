//! A model of as many keys, with names as long, as the defaults allow: what a real server tells of it, and what it costs a
//! server to be asked and not listened to.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use common::server::Scene;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig as Tls, ClientConnection, RootCertStore, StreamOwned};
use stepbox_client::{Client, ClientConfig, Tensor};
use stepbox_wire::{
    FrameLimits, FramePrefix, PAGE_BYTES, PREFIX_BYTES, PROTOCOL_VERSION, Request, RequestId, Response,
    decode_response, encode_request,
};

/// A server whose model has so many keys, each with one parameter and the longest name there is.
async fn scene(keys: usize) -> Scene {
    let mut scene = Scene::new();
    // It has a line for each key, and waits for somebody to take them.
    let mut log = scene.server.stderr.take().unwrap();
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    let file = |name: &str| scene.folder.path("ca").join(name);
    let credentials = (file("ca.pem"), file("worker-0.pem"), file("worker-0.key"));
    let (authority, certificate, key) = credentials;
    let worker = Client::connect(&ClientConfig::new(&scene.address, authority, certificate, key)).await.unwrap();
    worker.register().await.unwrap();
    let value = Tensor::new([1], vec![1.0]).unwrap();
    for number in 0..keys {
        assert!(worker.init(&format!("{number:0>256}"), &value).await.unwrap().created);
    }
    worker.leave().await.unwrap();
    scene
}

#[tokio::test]
async fn a_server_tells_of_as_many_keys_as_there_may_be() {
    const KEYS: usize = 8192;
    let scene = scene(KEYS).await;
    let (alice, bob) = (scene.connection("alice"), scene.connection("bob"));
    scene.folder.done(&format!("deploy adamw-1.0.0.wasm {alice} --learning-rate 0.01"));
    let status = scene.folder.done(&format!("status {bob} --weights-digest --json")).json();
    let keys = status["keys"].as_array().unwrap();
    assert_eq!(keys.len(), KEYS);
    assert!(keys.iter().zip(0..).all(|(key, number)| key["key"] == format!("{number:0>256}")), "each once, in order");
    assert_eq!(status["workers"].as_array().unwrap().len(), 1);
    assert_eq!(status["weights_digest"].as_str().unwrap().len(), 64);
    assert!(scene.folder.done(&format!("status {bob}")).stdout().contains(&format!("{:0>256}", KEYS - 1)));
    assert!(scene.folder.done(&format!("schedule --show {bob}")).stdout().contains("constant at 0.01"));
}

/// A connection of its own to a server, that reads only when it is told to.
struct Peer(StreamOwned<ClientConnection, TcpStream>);

impl Peer {
    fn greeted(scene: &Scene, identity: &str) -> Self {
        let file = |name: String| scene.folder.path("ca").join(name);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("ca.pem".into())).unwrap()).unwrap();
        let tls = Tls::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(file(format!("{identity}.pem"))).unwrap()],
                PrivateKeyDer::from_pem_file(file(format!("{identity}.key"))).unwrap(),
            )
            .unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(Arc::new(tls), name).unwrap();
        let mut peer = Self(StreamOwned::new(connection, TcpStream::connect(&scene.address).unwrap()));
        peer.send(&encode_request(1, &Request::Hello { protocol: PROTOCOL_VERSION, job: String::new() }, 0));
        assert!(matches!(peer.receive(), (1, Response::Welcome { .. })));
        peer
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
        self.0.flush().unwrap();
    }

    fn receive(&mut self) -> (RequestId, Response) {
        let mut prefix = [0; PREFIX_BYTES];
        self.0.read_exact(&mut prefix).unwrap();
        let prefix = FramePrefix::decode(&prefix, &FrameLimits::default()).unwrap();
        let mut header = vec![0; prefix.header_bytes as usize];
        self.0.read_exact(&mut header).unwrap();
        decode_response(&header).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_and_does_not_read_costs_a_server_no_memory() {
    /// As many as may wait on a connection by default.
    const REQUESTS: u64 = 8192;
    /// A connection's buffers, what waits, and a page being sent are below a megabyte.
    const MOST_GROWTH: u64 = 48 << 20;
    let scene = scene(2000).await;
    let server = scene.server.id();
    let resident = |field: &str| {
        let status = std::fs::read_to_string(format!("/proc/{server}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?.to_owned();
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
    };
    let Some(_) = resident("VmHWM:") else {
        return stepbox_test_skip::skip("the system does not tell how much memory a process has had");
    };
    let before = resident("VmHWM:").unwrap();

    let mut peer = Peer::greeted(&scene, "bob");
    let ask = |id: RequestId| match id % 2 {
        0 => Request::Status { weights_digest: false },
        _ => Request::Keys { after: None },
    };
    let flood: Vec<u8> = (2..2 + REQUESTS).flat_map(|id| encode_request(id, &ask(id), 0)).collect();
    // Where the server reads no further, the rest of it stays in the sockets' buffers.
    peer.send(&flood);
    // Somebody else is served meanwhile, and the server has time to do what it is going to.
    for _ in 0..3 {
        let status = scene.folder.done(&format!("status {} --json", scene.connection("alice"))).json();
        assert_eq!(status["keys"].as_array().unwrap().len(), 2000);
    }
    let grown = resident("VmHWM:").unwrap().saturating_sub(before);
    assert!(grown < MOST_GROWTH, "{} MiB for {REQUESTS} requests", grown >> 20);

    // What is read at last has been kept in order, and is whole.
    for id in 2..80 {
        match (id % 2, peer.receive()) {
            (0, (answered, Response::Status(status))) => {
                assert_eq!(answered, id);
                assert!(status.keys.is_empty());
            }
            (1, (answered, Response::Keys(page))) => {
                assert_eq!(answered, id);
                assert!(page.more && page.entries.len() > PAGE_BYTES / 400, "{} keys", page.entries.len());
            }
            (_, other) => panic!("{other:?}"),
        }
    }
}
