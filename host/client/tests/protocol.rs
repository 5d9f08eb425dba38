//! What a client does with peers that answer out of order, late, wrongly or not at all.

mod support;

use std::time::Duration;

use stepbox_client::{Client, ClientConfig, ClientError, DeployOptions, ErrorCode, Rows, Tensor, TensorType};
use stepbox_wire::{
    ElementType, Failure, FramePrefix, MAGIC, PROTOCOL_VERSION, Request, Response, UNADDRESSED, encode_response,
};
use support::{Authority, Peer};

fn tensor_type(elements: u64) -> TensorType {
    TensorType { element: ElementType::F32, shape: vec![elements] }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Connects to a peer that holds this conversation after its welcome.
async fn connected<Conversation, Running>(
    authority: &Authority,
    conversation: Conversation,
) -> (Client, tokio::task::JoinHandle<()>)
where
    Conversation: FnOnce(Peer) -> Running + Send + 'static,
    Running: Future<Output = ()> + Send,
{
    let (address, running) = authority.peer(|peer| async move { conversation(peer.welcome().await).await }).await;
    (Client::connect(&authority.client(address)).await.unwrap(), running)
}

#[tokio::test]
async fn answers_find_their_requests_in_any_order() {
    let authority = Authority::new();
    let (client, peer) = connected(&authority, |mut peer| async move {
        let mut asked = Vec::new();
        for _ in 0..3 {
            let (id, request, _) = peer.receive().await;
            let Request::Pull { key, version: 0, evaluation: false } = request else { panic!("{request:?}") };
            asked.push((id, key));
        }
        for (id, key) in asked.into_iter().rev() {
            let length = key.len() as u64;
            let value = bytes(&vec![length as f32; key.len()]);
            peer.answer(id, &Response::Pulled { version: length, tensor: tensor_type(length) }, &value).await;
        }
        peer.wait_for_close().await;
    })
    .await;
    assert_eq!(client.identity(), "worker");
    let (one, two, three) = tokio::try_join!(client.pull("1"), client.pull("22"), client.pull("333")).unwrap();
    assert_eq!((one.values(), two.values(), three.values()), (&[1.0][..], &[2.0; 2][..], &[3.0; 3][..]));
    client.close().await;
    peer.await.unwrap();
}

#[tokio::test]
async fn a_worker_keeps_count_of_rounds_and_barriers() {
    let authority = Authority::new();
    let (client, peer) = connected(&authority, |mut peer| async move {
        let (id, request, _) = peer.receive().await;
        assert_eq!(request, Request::Register);
        peer.answer(id, &Response::Registered { rank: 0, workers: 2, barrier: 4 }, &[]).await;

        let (id, request, body) = peer.receive().await;
        assert_eq!(request, Request::Init { key: "w".into(), tensor: tensor_type(2), tags: Vec::new() });
        assert_eq!(body, bytes(&[1.0, 2.0]), "rank 0 sends the value");
        peer.answer(id, &Response::Initialized { version: 7, created: false }, &[]).await;

        // The pull comes before the push is answered.
        let (push, request, body) = peer.receive().await;
        assert_eq!(request, Request::Push { key: "w".into(), round: 8, tensor: tensor_type(2), loss: None });
        assert_eq!(body, bytes(&[0.5, -0.5]));
        let (pull, request, _) = peer.receive().await;
        assert_eq!(request, Request::Pull { key: "w".into(), version: 8, evaluation: false });
        peer.answer(push, &Response::Pushed { repeated: false }, &[]).await;
        peer.answer(pull, &Response::Pulled { version: 8, tensor: tensor_type(2) }, &bytes(&[3.0, 4.0])).await;

        let (id, request, _) = peer.receive().await;
        assert_eq!(request, Request::Push { key: "w".into(), round: 9, tensor: tensor_type(2), loss: Some(0.5) });
        peer.answer(id, &Response::Pushed { repeated: true }, &[]).await;

        let (id, request, _) = peer.receive().await;
        assert_eq!(request, Request::Barrier { number: 5 });
        let failure = Failure { code: ErrorCode::WorkerLost, message: "worker-1 is gone".into(), reason: None };
        peer.answer(id, &Response::Failed(failure), &[]).await;
        let (id, request, _) = peer.receive().await;
        assert_eq!(request, Request::Barrier { number: 5 }, "a barrier that failed was not passed");
        peer.answer(id, &Response::BarrierPassed, &[]).await;
        let (id, request, _) = peer.receive().await;
        assert_eq!(request, Request::Barrier { number: 6 });
        peer.answer(id, &Response::BarrierPassed, &[]).await;
        peer.wait_for_close().await;
    })
    .await;
    let registration = client.register().await.unwrap();
    assert_eq!((registration.rank, registration.workers), (0, 2));
    let value = Tensor::new([2], vec![1.0, 2.0]).unwrap();
    assert_eq!(client.init("w", &value).await.unwrap().version, 7);
    let gradient = Tensor::new([2], vec![0.5, -0.5]).unwrap();
    assert_eq!(client.push_pull("w", &gradient).await.unwrap().values(), [3.0, 4.0]);
    let push = client.push("w", gradient.with_loss(0.5)).await.unwrap();
    assert!(push.round == 9 && push.repeated);
    let refused = client.barrier().await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::WorkerLost));
    assert!(refused.to_string().contains("worker-1 is gone"), "{refused}");
    client.barrier().await.unwrap();
    client.barrier().await.unwrap();
    client.close().await;
    peer.await.unwrap();
}

#[tokio::test]
async fn rows_are_pushed_and_pulled_by_their_ids() {
    let authority = Authority::new();
    let rows = |count| TensorType { element: ElementType::F32, shape: vec![count, 2] };
    let (client, peer) = connected(&authority, move |mut peer| async move {
        let ids = |ids: &[u64]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>();
        let (id, request, body) = peer.receive().await;
        assert_eq!(request, Request::PullRows { key: "w".into(), version: 0, rows: 2 });
        assert_eq!(body, ids(&[9, 4]));
        peer.answer(id, &Response::PulledRows { version: 5, tensor: rows(2) }, &bytes(&[1.0, 2.0, 3.0, 4.0])).await;

        let (push, request, body) = peer.receive().await;
        assert_eq!(request, Request::PushRows { key: "w".into(), round: 6, values: rows(1), loss: Some(2.0) });
        assert_eq!(body, [ids(&[9]), bytes(&[0.5, -0.5])].concat());
        let (pull, request, _) = peer.receive().await;
        assert_eq!(request, Request::PullRows { key: "w".into(), version: 6, rows: 1 });
        peer.answer(pull, &Response::PulledRows { version: 6, tensor: rows(1) }, &bytes(&[5.0, 6.0])).await;
        peer.answer(push, &Response::Pushed { repeated: false }, &[]).await;

        let (id, request, _) = peer.receive().await;
        assert_eq!(request, Request::Pull { key: "w".into(), version: 6, evaluation: true });
        peer.answer(id, &Response::Pulled { version: 7, tensor: rows(1) }, &bytes(&[0.0, 0.0])).await;
        // Weights for evaluation are not what the next gradient is computed from.
        let (id, request, _) = peer.receive().await;
        assert_eq!(request, Request::PushRows { key: "w".into(), round: 7, values: rows(0), loss: None });
        peer.answer(id, &Response::Pushed { repeated: false }, &[]).await;

        let (id, ..) = peer.receive().await;
        peer.answer(id, &Response::PulledRows { version: 7, tensor: rows(2) }, &bytes(&[0.0; 4])).await;
        peer.wait_for_close().await;
    })
    .await;
    assert_eq!(client.pull_rows("w", &[9, 4]).await.unwrap().values(), [1.0, 2.0, 3.0, 4.0]);
    let gradient = Rows::new([9], Tensor::new([1, 2], vec![0.5, -0.5]).unwrap()).unwrap();
    let pulled = client.push_pull_rows("w", gradient.with_loss(2.0), &[4]).await.unwrap();
    assert_eq!((pulled.shape(), pulled.values()), (&[1, 2][..], &[5.0, 6.0][..]));
    client.pull_evaluation("w").await.unwrap();
    client.push_rows("w", &Rows::new([], Tensor::new([0, 2], vec![]).unwrap()).unwrap()).await.unwrap();
    let error = client.pull_rows("w", &[1, 2, 3]).await.unwrap_err();
    assert!(error.to_string().contains("where 3 rows of key `w` were asked for"), "{error}");
    client.close().await;
    peer.await.unwrap();
}

#[tokio::test]
async fn a_refused_push_ends_its_pull() {
    let authority = Authority::new();
    let (client, peer) = connected(&authority, |mut peer| async move {
        let (id, _, _) = peer.receive().await;
        peer.answer(id, &Response::Pulled { version: 0, tensor: tensor_type(1) }, &bytes(&[1.0])).await;
        let (push, ..) = peer.receive().await;
        let (pull, ..) = peer.receive().await;
        let failure = Failure { code: ErrorCode::NotFinite, message: "element 0 is NaN".into(), reason: None };
        peer.answer(push, &Response::Failed(failure.clone()), &[]).await;
        let (status, request, _) = peer.receive().await;
        assert_eq!(request, Request::Leave);
        // The answer that nobody waits for any more does no harm.
        peer.answer(pull, &Response::Failed(failure), &[]).await;
        peer.answer(status, &Response::Left, &[]).await;
        peer.wait_for_close().await;
    })
    .await;
    client.pull("w").await.unwrap();
    let gradient = Tensor::new([1], vec![f32::NAN]).unwrap();
    assert_eq!(client.push_pull("w", &gradient).await.unwrap_err().code(), Some(ErrorCode::NotFinite));
    client.leave().await.unwrap();
    client.close().await;
    peer.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_at_once() {
    let authority = Authority::new();
    let (client, _peer) = connected(&authority, Peer::wait_for_close).await;
    let value = Tensor::new([1], vec![0.0]).unwrap();
    assert!(matches!(client.push("w", &value).await, Err(ClientError::UnknownVersion { .. })));
    assert!(matches!(client.init("", &value).await, Err(ClientError::Request(_))));
    assert!(matches!(client.pull(&"k".repeat(1000)).await, Err(ClientError::Request(_))));
}

/// Sends `bytes` in answer to a pull and returns what the client makes of it, for that request and for the next one.
async fn answered_with(bytes: Vec<u8>, then_close: bool) -> (ClientError, ClientError) {
    let authority = Authority::new();
    let (client, peer) = connected(&authority, move |mut peer| async move {
        peer.receive().await;
        peer.send(&bytes).await;
        if !then_close {
            peer.wait_for_close().await;
        }
    })
    .await;
    let first = client.pull("w").await.unwrap_err();
    let second = client.pull("w").await.unwrap_err();
    client.close().await;
    peer.await.unwrap();
    (first, second)
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_left() {
    let pulled = |version, elements| Response::Pulled { version, tensor: tensor_type(elements) };
    // The pull has id 2, behind the greeting.
    let violations: [(&str, Vec<u8>); 9] = [
        ("not a Stepbox frame", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("a header of 4294967295 bytes", FramePrefix { header_bytes: u32::MAX, body_bytes: 0 }.encode().to_vec()),
        (
            "a body of 18446744073709551615 bytes",
            FramePrefix { header_bytes: 1, body_bytes: u64::MAX }.encode().to_vec(),
        ),
        ("no message of protocol version", [&MAGIC[..], &[2, 0, 0, 0], &[0; 8], &[2, 200]].concat()),
        ("bytes stand in the header behind", {
            let mut frame = encode_response(2, &Response::Left, 0);
            frame[4] += 1;
            frame.push(0);
            frame
        }),
        ("the body has 8 bytes, the message calls for 4", encode_response(2, &pulled(0, 1), 8)),
        ("more bytes than 64 bits can count", encode_response(2, &pulled(0, u64::MAX), 8)),
        ("the body has 4 bytes, the message calls for 0", encode_response(2, &Response::Left, 4)),
        ("answers request 77", encode_response(77, &Response::Left, 0)),
    ];
    for (reason, bytes) in violations {
        let (first, second) = answered_with(bytes, false).await;
        for error in [first, second] {
            assert!(matches!(error, ClientError::Protocol { .. }), "{reason}: {error}");
            assert!(error.to_string().contains(reason), "{reason}: {error}");
        }
    }
}

#[tokio::test]
async fn an_answer_of_another_kind_is_a_violation() {
    let authority = Authority::new();
    let (client, _peer) = connected(&authority, |mut peer| async move {
        let (id, ..) = peer.receive().await;
        peer.answer(id, &Response::BarrierPassed, &[]).await;
        let (id, ..) = peer.receive().await;
        peer.answer(id, &Response::Pulled { version: 2, tensor: tensor_type(1) }, &bytes(&[0.0])).await;
        peer.wait_for_close().await;
    })
    .await;
    let error = client.pull("w").await.unwrap_err();
    assert!(error.to_string().contains("its answer to `pull` is `barrier passed`"), "{error}");
    let error = client.pull_version("w", 3).await.unwrap_err();
    assert!(error.to_string().contains("it sends version 2"), "{error}");
}

#[tokio::test]
async fn a_connection_that_ends_is_told_to_all_who_wait() {
    let (first, second) = answered_with(Vec::new(), true).await;
    assert!(matches!(first, ClientError::ConnectionLost { .. }), "{first}");
    assert!(matches!(second, ClientError::ConnectionLost { .. }), "{second}");

    let half = encode_response(2, &Response::Pulled { version: 0, tensor: tensor_type(100) }, 400);
    let (first, _) = answered_with(half, true).await;
    assert!(first.to_string().contains("middle of an answer"), "{first}");

    let failure = Failure { code: ErrorCode::Malformed, message: "the header is no message".into(), reason: None };
    let (first, second) = answered_with(encode_response(UNADDRESSED, &Response::Failed(failure), 0), true).await;
    assert_eq!(first.code(), Some(ErrorCode::Malformed));
    assert_eq!(second.code(), Some(ErrorCode::Malformed));
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    let authority = Authority::new();
    let (address, _peer) = authority.peer(|peer| async { peer.welcome().await.wait_for_close().await }).await;
    let mut config = authority.client(address);
    config.request_timeout = Duration::from_millis(1);
    // The greeting is a request as well, and may or may not make it in time.
    let error = match Client::connect(&config).await {
        Ok(client) => client.pull("w").await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_does_not_hold_up_a_client_that_closes() {
    let authority = Authority::new();
    let (over, ends) = tokio::sync::oneshot::channel::<()>();
    let (address, _peer) = authority
        .peer(|peer| async {
            // It is there for as long as the test takes, and takes nothing.
            let _held = peer.welcome().await;
            let _ = ends.await;
        })
        .await;
    let mut config = authority.client(address);
    config.request_timeout = Duration::from_secs(2);
    let client = Client::connect(&config).await.unwrap();
    // More than any buffer on the way holds.
    let error = client.deploy(vec![0; 64 << 20], &DeployOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    tokio::time::timeout(Duration::from_secs(120), client.close()).await.expect("it does not hang");
    drop(over);
}

#[tokio::test]
async fn a_peer_of_another_version_is_not_talked_to() {
    let authority = Authority::new();
    let (address, _peer) = authority
        .peer(|mut peer| async move {
            let (id, ..) = peer.receive().await;
            let welcome = Response::Welcome { protocol: PROTOCOL_VERSION + 1, identity: "worker".into() };
            peer.answer(id, &welcome, &[]).await;
            peer.wait_for_close().await;
        })
        .await;
    let error = Client::connect(&authority.client(address)).await.unwrap_err();
    assert!(error.to_string().contains("speaks version 2"), "{error}");
}

#[tokio::test]
async fn certificates_must_agree() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let told = async |config: &ClientConfig| {
        let error = Client::connect(config).await.unwrap_err();
        assert!(matches!(&error, ClientError::Handshake { name, .. } if *name == expected(config)), "{error}");
        error.to_string()
    };

    // We do not know the server's authority.
    let (address, _peer) = theirs.peer(Peer::wait_for_close).await;
    let error = told(&ours.client(address)).await;
    assert!(error.contains("the server's certificate") && error.contains("ca.pem"), "{error}");

    // The server does not know ours.
    let (address, _peer) = theirs.peer(Peer::wait_for_close).await;
    let mut config = ours.client(address);
    config.authority = theirs.path().join("ca.pem");
    let error = told(&config).await;
    assert!(error.contains("this client's certificate") && error.contains("worker.pem"), "{error}");

    // The server's certificate is for another name.
    let (address, _peer) = ours.peer(Peer::wait_for_close).await;
    let mut config = ours.client(address);
    config.server_name = Some("other.test".into());
    let error = told(&config).await;
    assert!(error.contains("not for `other.test` but for") && error.contains("peer.test"), "{error}");
}

fn expected(config: &ClientConfig) -> &str {
    config.server_name.as_deref().expect("these tests set it")
}

#[tokio::test]
async fn a_peer_that_closes_before_tls_or_does_not_speak_it_is_not_blamed_on_certificates() {
    let authority = Authority::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = authority.client(listener.local_addr().unwrap());
    for (answer, expected) in [(&b""[..], "before TLS was up"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speak TLS")] {
        let peer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 4096];
            assert_ne!(tokio::io::AsyncReadExt::read(&mut stream, &mut hello).await.unwrap(), 0);
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        };
        let (error, ()) = tokio::join!(Client::connect(&config), peer);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn unusable_credentials_are_named() {
    let authority = Authority::new();
    let (address, _peer) = authority.peer(Peer::wait_for_close).await;
    let good = authority.client(address);
    let empty = authority.path().join("empty.pem");
    std::fs::write(&empty, "no certificate here").unwrap();

    let mut config = good.clone();
    config.key = authority.path().join("missing.key");
    let error = Client::connect(&config).await.unwrap_err().to_string();
    assert!(error.contains("missing.key") && error.contains("this client's key"), "{error}");

    let mut config = good.clone();
    config.authority = empty.clone();
    let error = Client::connect(&config).await.unwrap_err().to_string();
    assert!(error.contains("empty.pem") && error.contains("BEGIN CERTIFICATE"), "{error}");

    let mut config = good.clone();
    config.key = authority.path().join("peer.test.key");
    let error = Client::connect(&config).await.unwrap_err().to_string();
    assert!(error.contains("this client's certificate and key"), "{error}");

    let mut config = good;
    config.server_name = Some("not a name".into());
    assert!(matches!(Client::connect(&config).await, Err(ClientError::ServerName { .. })));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let authority = Authority::new();
    // Bound and dropped: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Client::connect(&authority.client(address)).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
