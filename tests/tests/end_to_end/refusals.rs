//! Peers that send invalid requests: each gets the reason, the log records it, and no other peer is affected.

use stepbox_client::{Client, ClientError, DeployOptions, ErrorCode, Tensor};
use stepbox_tests::{Authority, Options, RawPeer, TestServer, in_time, is_logged, logged};
use stepbox_wire::{ElementType, FramePrefix, PROTOCOL_VERSION, Request, TensorType, UNADDRESSED};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{init, refused, round, tensor};

/// A server with two workers and a key of shape [2, 3], and the checks at the end of a test.
struct Scene {
    workers: Vec<Client>,
    server: TestServer,
}

impl Scene {
    async fn new(name: &'static str) -> Self {
        let server = TestServer::start(Options::new(name));
        server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
        let workers = server.workers(0..2).await;
        init(&workers, "w", &matrix(0.0)).await;
        Self { server, workers }
    }

    /// Checks that both workers continue, and that the attack had no effect.
    async fn goes_on_unharmed(self, refusals: u64) {
        for worker in &self.workers {
            assert_eq!(worker.pull("w").await.unwrap().values(), [0.0; 6]);
        }
        assert_eq!(round(&self.workers, "w", &matrix(1.0)).await.unwrap().values(), [-1.0; 6]);
        assert_eq!(self.server.status().await.refusals, refusals);
    }
}

fn matrix(value: f32) -> Tensor {
    Tensor::new([2, 3], vec![value; 6]).unwrap()
}

fn push(element: ElementType, shape: &[u64], key: &str, round: u64) -> Request {
    Request::Push { key: key.into(), round, tensor: TensorType { element, shape: shape.to_vec() }, loss: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bytes_that_are_no_frame_end_their_connection_only() {
    let scene = Scene::new("no-frame").await;
    let http = b"GET / HTTP/1.1\r\nHost: stepbox\r\n\r\n".to_vec();
    let random: Vec<u8> = (0..65_536_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut empty_header = FramePrefix { header_bytes: 0, body_bytes: 0 }.encode().to_vec();
    empty_header.extend([0; 16]);
    let mut no_message = FramePrefix { header_bytes: 4, body_bytes: 0 }.encode().to_vec();
    no_message.extend([0xff; 4]);
    for bytes in [http, random, empty_header, no_message] {
        let mut peer = RawPeer::greeted(&scene.server, "operator").await;
        // The server may have closed the connection before all of it was sent.
        let _ = peer.send(&bytes).await;
        let (id, failure) = peer.refusal().await;
        assert_eq!(failure.code, ErrorCode::Malformed, "{}", failure.message);
        assert_eq!(id, UNADDRESSED);
        assert!(peer.receive().await.is_none(), "the connection is closed");
        logged(&["WARN", "no-frame-operator", "refused", "malformed"]);
    }
    scene.goes_on_unharmed(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn plaintext_and_nonsense_before_tls_are_dropped() {
    let scene = Scene::new("plaintext").await;
    let mut peer = TcpStream::connect(scene.server.address).await.unwrap();
    let from = peer.local_addr().unwrap().to_string();
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The only possible answer is a TLS alert.
    let _ = in_time(peer.read_to_end(&mut answer)).await;
    assert!(answer.len() < 16, "{answer:?}");
    logged(&["WARN", &from, "TLS handshake failed"]);
    scene.goes_on_unharmed(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn frames_above_the_limits_are_refused_before_they_are_read() {
    let scene = Scene::new("oversized").await;
    for prefix in [
        FramePrefix { header_bytes: u32::MAX, body_bytes: 0 },
        FramePrefix { header_bytes: 10, body_bytes: u64::MAX },
        FramePrefix { header_bytes: 10, body_bytes: (1 << 30) + 1 },
    ] {
        let mut peer = RawPeer::greeted(&scene.server, "worker-0").await;
        peer.send(&prefix.encode()).await.unwrap();
        let (id, failure) = peer.refusal().await;
        assert_eq!((id, failure.code), (UNADDRESSED, ErrorCode::Oversized), "{}", failure.message);
        assert!(failure.message.contains("limit"), "{}", failure.message);
        assert!(peer.receive().await.is_none(), "the connection is closed");
    }
    logged(&["WARN", "oversized-worker-0", "refused", "oversized"]);
    scene.goes_on_unharmed(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tensor_of_another_type_is_refused_and_the_connection_goes_on() {
    let scene = Scene::new("types").await;
    let mut peer = RawPeer::registered(&scene.server, 0).await;
    let f32 = ElementType::F32;
    for (id, request, body_bytes, code) in [
        (10, push(f32, &[2, 4], "w", 1), 32, ErrorCode::WrongShape),
        (11, push(f32, &[3, 2], "w", 1), 24, ErrorCode::WrongShape),
        (12, push(f32, &[6], "w", 1), 24, ErrorCode::WrongShape),
        (13, push(f32, &[1; 9], "w", 1), 4, ErrorCode::WrongShape),
        (14, push(ElementType::I32, &[2, 3], "w", 1), 24, ErrorCode::WrongElementType),
        (15, push(ElementType::F64, &[2, 3], "w", 1), 48, ErrorCode::WrongElementType),
        (16, push(f32, &[2, 3], "w", 1), 20, ErrorCode::WrongLength),
        (17, push(f32, &[2, 3], "w", 1), 0, ErrorCode::WrongLength),
        (18, push(f32, &[2, 3], "v", 1), 24, ErrorCode::UnknownKey),
        (19, push(f32, &[2, 3], "w", 0), 24, ErrorCode::WrongRound),
        (20, push(f32, &[2, 3], "w", 2), 24, ErrorCode::WrongRound),
        (21, Request::Pull { key: "v".into(), version: 0, evaluation: false }, 0, ErrorCode::UnknownKey),
        (22, Request::Barrier { number: 2 }, 0, ErrorCode::OutOfOrder),
    ] {
        peer.ask(id, &request, &vec![0x3f; body_bytes]).await;
        let (answered, failure) = peer.refusal().await;
        assert_eq!((answered, failure.code), (id, code), "{}", failure.message);
        logged(&["WARN", "types-worker-0", "refused", &format!("code={code}")]);
    }
    let offered = TensorType { element: ElementType::F64, shape: vec![1] };
    peer.ask(23, &Request::Init { key: "v".into(), tensor: offered, tags: Vec::new() }, &[0; 8]).await;
    assert_eq!(peer.refusal().await.1.code, ErrorCode::WrongElementType);

    // On the same connection, a valid push at last; the refused pushes did not count.
    peer.ask(24, &push(f32, &[2, 3], "w", 1), &[0; 24]).await;
    assert_eq!(peer.receive().await.unwrap().1, stepbox_wire::Response::Pushed { repeated: false });
    scene.workers[1].push("w", &matrix(2.0)).await.unwrap();
    assert_eq!(scene.workers[1].pull("w").await.unwrap().values(), [-1.0; 6]);
    assert_eq!(scene.server.status().await.refusals, 14);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn values_that_are_no_numbers_are_refused_and_the_worker_may_mend_it() {
    let scene = Scene::new("not-finite").await;
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![1.0; 6];
        values[4] = value;
        let gradient = Tensor::new([2, 3], values).unwrap();
        let (code, message) = refused(scene.workers[0].push("w", &gradient).await);
        assert_eq!(code, ErrorCode::NotFinite);
        assert!(message.contains("element 4"), "{message}");
        assert_eq!(refused(scene.workers[0].init("new", &gradient.clone()).await).0, ErrorCode::NotFinite);
    }
    logged(&["WARN", "not-finite-worker-0", "refused", "not-finite"]);
    scene.goes_on_unharmed(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_of_another_authority_or_none_does_not_get_in() {
    let scene = Scene::new("strangers").await;
    // The same identity, certified by another authority.
    let other = Authority::new();
    let stranger = other.issue(&scene.server.identity("worker-0"));
    let error = in_time(Client::connect(&scene.server.reach(&stranger))).await.expect_err("the certificate is refused");
    assert!(matches!(error, ClientError::Handshake { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    logged(&["WARN", "TLS handshake failed", "invalid peer certificate"]);

    // In TLS 1.3 the client learns of it with its first read.
    let mut nameless = RawPeer::connect(&scene.server, None).await.unwrap();
    let _ = nameless.send(&[0; 16]).await;
    let alert = nameless.rejection().await.to_string();
    assert!(alert.contains("CertificateRequired"), "{alert}");
    logged(&["WARN", "TLS handshake failed", "peer sent no certificates"]);
    scene.goes_on_unharmed(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rights_are_by_identity_and_denied_unless_given() {
    let scene = Scene::new("rights").await;
    let server = &scene.server;
    let nobody = Client::connect(&server.reach(&server.credentials("nobody")))
        .await
        .expect_err("the identity has no part in the job");
    assert_eq!(nobody.code(), Some(ErrorCode::Forbidden), "{nobody}");
    logged(&["WARN", "rights-nobody", "refused", "forbidden"]);

    let worker = &scene.workers[0];
    let component = server.publisher.sign("lion", "1.0.0");
    let options = DeployOptions::default();
    assert_eq!(refused(worker.deploy(component.clone(), &options).await).0, ErrorCode::Forbidden);
    assert_eq!(refused(worker.status(false).await).0, ErrorCode::Forbidden);
    let operator = server.client("operator").await;
    assert_eq!(refused(operator.deploy(component, &options).await).0, ErrorCode::Forbidden);
    assert_eq!(refused(operator.register().await).0, ErrorCode::Forbidden);
    assert_eq!(refused(operator.pull("w").await).0, ErrorCode::Forbidden, "only workers may read weights");
    server.client("deployer").await.status(false).await.expect("a deployer may read the status");

    let unregistered = server.client("worker-0").await;
    assert_eq!(refused(unregistered.pull("w").await).0, ErrorCode::OutOfOrder);
    assert_eq!(server.status().await.optimizer.unwrap().name, "sgd");
    scene.goes_on_unharmed(7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_conversation_starts_with_a_greeting_in_the_same_protocol() {
    let scene = Scene::new("greeting").await;
    let credentials = scene.server.credentials("operator");
    for (request, code) in [
        (Request::Hello { protocol: PROTOCOL_VERSION + 1, job: String::new() }, ErrorCode::ProtocolVersion),
        (Request::Register, ErrorCode::OutOfOrder),
        (push(ElementType::F32, &[2, 3], &"k".repeat(100), 1), ErrorCode::Oversized),
    ] {
        let mut peer = RawPeer::connect(&scene.server, Some(&credentials)).await.unwrap();
        peer.ask(5, &request, &[]).await;
        let (_, failure) = peer.refusal().await;
        assert_eq!(failure.code, code, "{}", failure.message);
        assert!(peer.receive().await.is_none());
    }
    logged(&["WARN", "greeting-operator", "refused", "protocol-version"]);
    scene.goes_on_unharmed(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn floods_meet_limits() {
    let server = TestServer::start(Options {
        more: "[limits]\nconnections_per_identity = 2\noutstanding_requests = 3\nkeys = 2\nmodel_bytes = 1000\n\
               handshake_seconds = 3",
        ..Options::new("floods")
    });
    server.deploy("sgd", "1.0.0", &[]).await;
    let mut worker = RawPeer::registered(&server, 0).await;
    for id in 10..13 {
        worker.ask(id, &Request::Barrier { number: 1 }, &[]).await;
    }
    worker.ask(13, &Request::Barrier { number: 1 }, &[]).await;
    let (id, failure) = worker.refusal().await;
    assert_eq!((id, failure.code), (13, ErrorCode::Busy));
    drop(worker);

    let first = server.worker(0).await;
    let (code, message) = refused(first.init("large", &tensor(&[0.0; 251])).await);
    assert_eq!(code, ErrorCode::Busy);
    assert!(message.contains("limits.model_bytes"), "{message}");
    first.init("a", &tensor(&[0.0])).await.unwrap();
    first.init("b", &tensor(&[0.0])).await.unwrap();
    let (code, message) = refused(first.init("c", &tensor(&[0.0])).await);
    assert_eq!(code, ErrorCode::Busy);
    assert!(message.contains("limits.keys"), "{message}");

    let credentials = server.credentials("operator");
    let _held = [
        Client::connect(&server.reach(&credentials)).await.unwrap(),
        Client::connect(&server.reach(&credentials)).await.unwrap(),
    ];
    let third = Client::connect(&server.reach(&credentials)).await.expect_err("the third of one identity");
    assert_eq!(third.code(), Some(ErrorCode::RateLimited), "{third}");
    assert!(third.to_string().contains("limits.connections_per_identity"), "{third}");
    logged(&["WARN", "floods-operator", "limits.connections_per_identity"]);

    // The server does not wait for a peer that connects and sends nothing.
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let from = silent.local_addr().unwrap().to_string();
    assert_eq!(in_time(silent.read(&mut [0; 1])).await.unwrap_or(0), 0);
    logged(&["WARN", &from, "limits.handshake_seconds"]);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_private_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let server = TestServer::start(Options::new("open-key"));
    let folder = server.authority.folder();
    std::fs::set_permissions(folder.join("server.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let config = stepbox_server::Config::load(&folder.join("server.toml")).unwrap();
    let error = stepbox_server::Server::bind(config).await.err().unwrap().to_string();
    assert!(error.contains("server.key has mode 0644") && error.contains("chmod 600"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_name_that_must_not_be_costs_its_request_and_not_the_connection() {
    let scene = Scene::new("names").await;
    let mut peer = RawPeer::registered(&scene.server, 0).await;
    let tensor = TensorType { element: ElementType::F32, shape: vec![2, 3] };
    let init = |key: &str, tags: &[&str]| Request::Init {
        key: key.into(),
        tensor: tensor.clone(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    };
    let long = "k".repeat(257);
    for (id, request, words) in [
        (10, init("layer\n0", &[]), "control character U+000A at byte 5"),
        (11, init("", &[]), "the key is empty"),
        (12, init(&long, &[]), "257 bytes"),
        (13, init("v", &["a\tb"]), "tag 0"),
        (14, init("v", &["t"; 17]), "17 tags"),
        (15, push(ElementType::F32, &[2, 3], "w\0", 1), "control character"),
    ] {
        peer.ask(id, &request, &[0; 24]).await;
        let (answered, failure) = peer.refusal().await;
        assert_eq!((answered, failure.code), (id, ErrorCode::InvalidName), "{}", failure.message);
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    // The worker is still registered, and its connection is open.
    peer.ask(20, &push(ElementType::F32, &[2, 3], "w", 1), &[0; 24]).await;
    assert_eq!(peer.receive().await.unwrap().1, stepbox_wire::Response::Pushed { repeated: false });
    scene.workers[1].push("w", &matrix(2.0)).await.unwrap();
    assert_eq!(scene.workers[1].pull("w").await.unwrap().values(), [-1.0; 6]);
    assert_eq!(scene.server.status().await.refusals, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_step_that_diverges_in_every_key_is_refused_without_being_slowed() {
    const KEYS: usize = 300;
    let server = TestServer::start(Options { more: "[limits]\nrefusals_per_minute = 20", ..Options::new("diverges") });
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    let keys: Vec<String> = (0..KEYS).map(|number| format!("layer.{number}")).collect();
    for key in &keys {
        init(&workers, key, &tensor(&[0.0])).await;
    }
    for key in &keys {
        assert_eq!(refused(workers[0].push(key, &tensor(&[f32::NAN])).await).0, ErrorCode::NotFinite);
    }
    // If these refusals counted toward the limit, this request would have to wait.
    assert_eq!(round(&workers, &keys[0], &tensor(&[1.0])).await.unwrap().values(), [-1.0]);
    assert!(!is_logged(&["slowed", "diverges-worker-0"]));
}
