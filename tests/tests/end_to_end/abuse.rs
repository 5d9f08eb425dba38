//! Peers that exceed limits: each limit is enforced and named, and honest workers complete their rounds meanwhile.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use stepbox_client::{Client, DeployOptions, ErrorCode};
use stepbox_tests::{Options, RawPeer, TestServer, in_time, logged};
use stepbox_wire::{ElementType, Request, Response, TensorType, UNADDRESSED, encode_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::{init, refused, round, tensor};

async fn scene(name: &'static str, limits: &'static str) -> (TestServer, Vec<Client>) {
    let server = TestServer::start(Options { more: limits, ..Options::new(name) });
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0; 4])).await;
    (server, workers)
}

/// Runs another round. The weights are then the negated number of rounds.
async fn trains_on(workers: &[Client], rounds: f32) {
    assert_eq!(round(workers, "w", &tensor(&[1.0; 4])).await.unwrap().values(), [-rounds; 4]);
}

/// A TCP connection from another address of this machine, which sends nothing.
#[cfg(target_os = "linux")]
async fn silent_from(address: [u8; 4], server: &TestServer) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(IpAddr::from(address), 0)).unwrap();
    socket.connect(server.address).await.unwrap()
}

/// Waits until the server has closed a connection.
async fn is_closed(stream: &mut TcpStream) {
    let mut answer = Vec::new();
    match in_time(stream.read_to_end(&mut answer)).await {
        // An alert may precede the close.
        Ok(_) => assert!(answer.len() < 16, "{answer:?}"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

fn source(stream: &TcpStream) -> String {
    stream.local_addr().unwrap().to_string()
}

fn status() -> Request {
    Request::Status { weights_digest: false }
}

fn unregistered_pull() -> Request {
    Request::Pull { key: "w".into(), version: 0, evaluation: false }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_address_has_its_share_of_unfinished_handshakes() {
    let (server, workers) = scene("half-open", "[limits]\nhalf_open_per_address = 2").await;
    let address = [127, 0, 0, 11];
    let (first, _second) = (silent_from(address, &server).await, silent_from(address, &server).await);
    let mut third = silent_from(address, &server).await;
    is_closed(&mut third).await;
    logged(&["WARN", "closed before TLS", &source(&third), "limits.half_open_per_address"]);
    let _another_address = server.client("operator").await;
    trains_on(&workers, 1.0).await;

    // The quota is released with the connection, so that connections do not count forever.
    drop(first);
    let credentials = server.credentials("operator");
    let again = async {
        loop {
            let stream = silent_from(address, &server).await;
            if let Ok(peer) = RawPeer::over(stream, &server, Some(&credentials)).await {
                break peer;
            }
        }
    };
    in_time(again).await;
    trains_on(&workers, 2.0).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_too_many_unfinished_handshakes_the_oldest_of_who_has_most_gives_way() {
    let (server, workers) = scene("give-way", "[limits]\nhalf_open = 3").await;
    let address = [127, 0, 0, 12];
    let mut oldest = silent_from(address, &server).await;
    let _others = (silent_from(address, &server).await, silent_from(address, &server).await);
    let _newcomer = server.client("operator").await;
    is_closed(&mut oldest).await;
    logged(&["WARN", "gives way", &source(&oldest), "limits.half_open"]);
    trains_on(&workers, 1.0).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn handshakes_of_an_address_beyond_their_rate_wait_for_their_turn() {
    let limits = "[limits]\nhandshakes_per_second_per_address = 10\nhandshake_seconds = 3";
    let (server, workers) = scene("turns", limits).await;
    let address = [127, 0, 0, 13];
    // Ten at once, and ten more each second: the last ones of seventy get no turn within three seconds.
    let mut flood = Vec::new();
    for _ in 0..70 {
        flood.push(silent_from(address, &server).await);
    }
    trains_on(&workers, 1.0).await;
    for stream in &mut flood {
        is_closed(stream).await;
    }
    logged(&["WARN", "its turn did not come in time", "127.0.0.13", "limits.handshakes_per_second_per_address"]);
    trains_on(&workers, 2.0).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_address_with_too_many_failures_is_shut_out_for_a_while() {
    let limits = "[limits]\nfailures_per_minute_per_address = 2\nshut_out_seconds = 2";
    let (server, workers) = scene("shut-out", limits).await;
    let address = [127, 0, 0, 14];
    for _ in 0..3 {
        let mut stream = silent_from(address, &server).await;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        is_closed(&mut stream).await;
    }
    logged(&["WARN", "shut out", "127.0.0.14", "limits.failures_per_minute_per_address"]);
    let mut refused = silent_from(address, &server).await;
    is_closed(&mut refused).await;
    logged(&["WARN", "closed before TLS", &source(&refused), "limits.failures_per_minute_per_address"]);
    let _another_address = server.client("operator").await;
    trains_on(&workers, 1.0).await;

    // After that, the address is accepted again, with a certificate.
    let credentials = server.credentials("operator");
    let again = async {
        while RawPeer::over(silent_from(address, &server).await, &server, Some(&credentials)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    in_time(again).await;
    trains_on(&workers, 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_has_no_part_in_the_job_is_shut_out_like_who_has_no_certificate() {
    let (server, workers) = scene("outsider", "[limits]\nfailures_per_minute_per_address = 2").await;
    let nobody = server.credentials("nobody");
    for _ in 0..3 {
        let error = Client::connect(&server.reach(&nobody)).await.expect_err("the identity has no part in the job");
        assert_eq!(error.code(), Some(ErrorCode::Forbidden), "{error}");
    }
    // A refusal is counted when its connection has ended.
    let shut_out =
        async { while Client::connect(&server.reach(&nobody)).await.expect_err("still none").code().is_some() {} };
    in_time(shut_out).await;
    // Existing connections remain.
    trains_on(&workers, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_identity_has_so_many_connections_and_is_told() {
    let (server, workers) = scene("crowd", "[limits]\nconnections_per_identity = 2").await;
    let credentials = server.credentials("operator");
    let first = Client::connect(&server.reach(&credentials)).await.unwrap();
    let _second = Client::connect(&server.reach(&credentials)).await.unwrap();
    let third = Client::connect(&server.reach(&credentials)).await.expect_err("the third");
    assert_eq!(third.code(), Some(ErrorCode::RateLimited), "{third}");
    assert!(third.to_string().contains("limits.connections_per_identity"), "{third}");
    trains_on(&workers, 1.0).await;
    first.close().await;
    let again = async { while Client::connect(&server.reach(&credentials)).await.is_err() {} };
    in_time(again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_beyond_their_rate_are_slowed_and_all_answered() {
    let (server, workers) = scene("frames", "[limits]\nrequests_per_second = 40").await;
    let mut flooder = RawPeer::greeted(&server, "operator").await;
    let flood: Vec<u8> = (10..110).flat_map(|id| encode_request(id, &status(), 0)).collect();
    flooder.send(&flood).await.unwrap();
    trains_on(&workers, 1.0).await;
    for _ in 10..110 {
        let (_, response) = flooder.receive().await.expect("an answer");
        assert!(matches!(response, Response::Status(_)), "{response:?}");
    }
    logged(&["WARN", "slowed", "frames-operator", "limits.requests_per_second"]);
    trains_on(&workers, 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn refusals_beyond_their_rate_slow_whoever_causes_them() {
    let (server, workers) = scene("noise", "[limits]\nrefusals_per_minute = 60\nkeys = 1").await;
    let mut flooder = RawPeer::greeted(&server, "operator").await;
    let flood: Vec<u8> = (10..72).flat_map(|id| encode_request(id, &unregistered_pull(), 0)).collect();
    flooder.send(&flood).await.unwrap();
    trains_on(&workers, 1.0).await;
    for _ in 10..72 {
        assert_eq!(flooder.refusal().await.1.code, ErrorCode::Forbidden);
    }
    logged(&["WARN", "slowed", "noise-operator", "limits.refusals_per_minute"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn changes_beyond_their_rate_are_refused_and_cannot_fill_the_audit_log() {
    let (server, workers) = scene("changes", "[limits]\nchanges_per_minute = 5").await;
    let (scheduler, publisher) = (server.client("scheduler").await, server.client("publisher").await);
    let file = server.publisher.sign("sgd", "1.1.0");
    for _ in 0..5 {
        scheduler.set_learning_rate(1.0).await.unwrap();
        publisher.submit(file.clone()).await.unwrap();
    }
    for _ in 0..50 {
        let nothing = "0".repeat(64);
        for outcome in [
            scheduler.set_learning_rate(1.0).await.map(drop),
            publisher.submit(file.clone()).await.map(drop),
            publisher.withdraw(&nothing).await,
        ] {
            let (code, message) = refused(outcome);
            assert_eq!(code, ErrorCode::RateLimited);
            assert!(message.contains("limits.changes_per_minute"), "{message}");
        }
    }
    let log = std::fs::read_to_string(server.authority.folder().join("state/audit/audit-000001.jsonl")).unwrap();
    let about = |action: &str| log.matches(&format!("\"action\":\"{action}\"")).count();
    // Two lines for each change. Refusals are aggregated, so only the first ones have lines.
    assert!((10..=25).contains(&about("schedule")) && (10..=25).contains(&about("submit")), "{log}");
    // Other peers have separate rates.
    server.client("deployer").await.rollback(None).await.expect_err("there is no earlier deployment");
    server.client("deployer").await.set_learning_rate(1.0).await.unwrap();
    trains_on(&workers, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn weights_are_evaluated_only_when_there_is_room_for_them() {
    const ELEMENTS: usize = 8 << 20;
    let access = "[[access.grant]]\nidentities = ['evaluates-reader']\nrights = ['pull']\nkeys = ['*']";
    let more = "[limits]\nframe_seconds = 1\nsending_bytes_per_identity = 33554432\n";
    let server = TestServer::start(Options { more, access, workers: 1, ..Options::new("evaluates") });
    let file = server.publisher.sign_as("hostile/false-evaluation", "hostile", "1.0.0");
    server.client("deployer").await.deploy(file, &DeployOptions::default()).await.unwrap();
    let worker = server.worker(0).await;
    worker.init("w", &tensor(&vec![0.0; ELEMENTS])).await.unwrap();
    worker.push_pull("w", &tensor(&vec![0.0; ELEMENTS])).await.unwrap();
    let reader = server.client("reader").await;
    assert_eq!(refused(reader.pull_evaluation("w").await).0, ErrorCode::OptimizerFailed);
    // The same reader has begun to read the weights over another connection, and stops reading.
    let mut slow = RawPeer::greeted(&server, "reader").await;
    slow.send(&encode_request(2, &unregistered_pull(), 0)).await.unwrap();
    slow.first_byte().await;
    let (code, message) = refused(reader.pull_evaluation("w").await);
    assert_eq!(code, ErrorCode::RateLimited, "the optimizer ran before there was space: {message}");
    assert!(message.contains("limits.sending_bytes_per_identity"), "{message}");
    drop(slow);
    let again = async { while refused(reader.pull_evaluation("w").await).0 != ErrorCode::OptimizerFailed {} };
    in_time(again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bytes_beyond_their_rate_are_slowed() {
    let (server, workers) = scene("bytes", "[limits]\nidentity_bytes_per_second = 60").await;
    // Sixteen bytes in each direction, so that the second or third round has to wait.
    for rounds in [1.0, 2.0, 3.0, 4.0] {
        trains_on(&workers, rounds).await;
    }
    logged(&["WARN", "slowed", "bytes-worker-0", "limits.identity_bytes_per_second"]);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_asks_nothing_for_long_is_told_so_and_a_worker_may_compute_for_longer() {
    let (server, workers) = scene("idle", "[limits]\nidle_seconds = 2").await;
    let mut idle = RawPeer::greeted(&server, "operator").await;
    let (id, failure) = idle.refusal().await;
    assert_eq!((id, failure.code), (UNADDRESSED, ErrorCode::TimedOut), "{}", failure.message);
    assert!(failure.message.contains("limits.idle_seconds"), "{}", failure.message);
    assert!(idle.receive().await.is_none(), "the connection is closed");
    // The workers have been silent for at least as long.
    trains_on(&workers, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_waits_for_others_is_not_idle() {
    let (server, workers) = scene("patient", "[limits]\nidle_seconds = 1").await;
    let mut waiting = RawPeer::greeted(&server, "operator").await;
    let mut other = RawPeer::registered(&server, 1).await;
    other.ask(10, &Request::Barrier { number: 1 }, &[]).await;
    assert_eq!(waiting.refusal().await.1.code, ErrorCode::TimedOut, "this one is idle");
    workers[0].barrier().await.unwrap();
    assert_eq!(other.receive().await, Some((10, Response::BarrierPassed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bodies_wait_for_room_that_others_have() {
    const ELEMENTS: usize = 4096;
    let server = TestServer::start(Options { more: "[limits]\nreceiving_bytes = 16384", ..Options::new("room") });
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let (first, mut second) = (server.worker(0).await, RawPeer::registered(&server, 1).await);
    let value = tensor(&[0.0; ELEMENTS]);
    first.init("w", &value).await.unwrap();
    // The peer takes all the space, and then sends slowly.
    let tensor_type = TensorType { element: ElementType::F32, shape: vec![ELEMENTS as u64] };
    let push = Request::Push { key: "w".into(), round: 1, tensor: tensor_type, loss: None };
    let body = vec![0; 4 * ELEMENTS];
    second.send(&encode_request(10, &push, body.len() as u64)).await.unwrap();
    second.send(&body[..100]).await.unwrap();
    let operator = server.client("operator").await;
    operator.status(false).await.unwrap();

    let mut waits = Box::pin(first.push("w", &value));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut waits).await;
    // Either of the two may have had the space first, but not both.
    if early.is_err() {
        second.send(&body[100..]).await.unwrap();
        in_time(waits).await.unwrap();
    } else {
        drop(waits);
        second.send(&body[100..]).await.unwrap();
    }
    assert_eq!(second.receive().await, Some((10, Response::Pushed { repeated: false })));
    assert_eq!(first.pull("w").await.unwrap().values(), vec![0.0; ELEMENTS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_has_said_all_still_gets_the_answers() {
    let (server, workers) = scene("half-closed", "").await;
    let mut peer = RawPeer::greeted(&server, "operator").await;
    let asked: Vec<u8> = (10..60).flat_map(|id| encode_request(id, &unregistered_pull(), 0)).collect();
    peer.send(&asked).await.unwrap();
    peer.end().await.unwrap();
    for id in 10..60 {
        assert_eq!(peer.refusal().await.0, id);
    }
    assert!(peer.receive().await.is_none());
    trains_on(&workers, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_registers_again_and_again_is_noticed_once() {
    let (mut server, workers) = scene("registers", "").await;
    let mut peer = RawPeer::registered(&server, 1).await;
    let flood: Vec<u8> = (10..1010).flat_map(|id| encode_request(id, &Request::Register, 0)).collect();
    peer.send(&flood).await.unwrap();
    for id in 10..1010 {
        let (answered, response) = peer.receive().await.expect("an answer");
        assert_eq!((answered, response), (id, Response::Registered { rank: 1, workers: 2, barrier: 0 }));
    }
    drop((peer, workers));
    server.restart();
    let log = std::fs::read_to_string(server.authority.folder().join("state/audit/audit-000001.jsonl")).unwrap();
    let of_it = |line: &&str| line.contains("\"action\":\"register\"") && line.contains("registers-worker-1");
    // One line for the worker's first registration, and one for the peer's replacement of it.
    assert_eq!(log.lines().filter(of_it).count(), 2, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_comes_and_goes_beyond_its_rate_is_slowed() {
    let (server, _workers) = scene("restless", "[limits]\nregistrations_per_minute = 240").await;
    let mut peer = RawPeer::registered(&server, 1).await;
    for id in 0..121 {
        peer.ask(10 + 2 * id, &Request::Leave, &[]).await;
        peer.ask(11 + 2 * id, &Request::Register, &[]).await;
    }
    for id in 10..252 {
        assert_eq!(peer.receive().await.expect("an answer").0, id);
    }
    logged(&["WARN", "slowed", "restless-worker-1", "limits.registrations_per_minute"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn few_pulls_of_a_connection_wait_for_versions_far_ahead() {
    let (server, workers) = scene("ahead", "").await;
    let mut peer = RawPeer::registered(&server, 1).await;
    let pull = |version| Request::Pull { key: "w".into(), version, evaluation: false };
    for id in 10..27 {
        peer.ask(id, &pull(u64::MAX - id), &[]).await;
    }
    let (id, failure) = peer.refusal().await;
    assert_eq!((id, failure.code), (26, ErrorCode::Busy), "{}", failure.message);
    assert!(failure.message.contains("later versions of key `w`"), "{}", failure.message);
    // Any number of requests may wait for the next version.
    for id in 100..200 {
        peer.ask(id, &pull(1), &[]).await;
    }
    let tensor_type = TensorType { element: ElementType::F32, shape: vec![4] };
    let push = Request::Push { key: "w".into(), round: 1, tensor: tensor_type, loss: None };
    peer.ask(200, &push, &[0; 16]).await;
    workers[0].push("w", &tensor(&[1.0; 4])).await.unwrap();
    let mut pulled = 0;
    while pulled < 100 {
        match peer.receive().await.expect("an answer") {
            (100..200, Response::Pulled { version: 1, .. }) => pulled += 1,
            (200, Response::Pushed { repeated: false }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_identity_has_so_many_waiting_requests_over_all_its_connections() {
    let limits = "[limits]\noutstanding_requests_per_identity = 3";
    let access = "[[access.grant]]\nidentities = ['waits-reader']\nrights = ['pull']\nkeys = ['*']";
    let server = TestServer::start(Options { more: limits, access, ..Options::new("waits") });
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0; 4])).await;
    let mut peers = [RawPeer::greeted(&server, "reader").await, RawPeer::greeted(&server, "reader").await];
    let pull = Request::Pull { key: "w".into(), version: 1, evaluation: false };
    for id in [10, 11] {
        peers[0].ask(id, &pull, &[]).await;
    }
    // An answer shows that the preceding requests are waiting.
    peers[0].ask(12, &Request::Pull { key: "w".into(), version: 0, evaluation: false }, &[]).await;
    assert!(matches!(peers[0].receive().await, Some((12, Response::Pulled { version: 0, .. }))));
    for id in [20, 21] {
        peers[1].ask(id, &pull, &[]).await;
    }
    let (id, failure) = peers[1].refusal().await;
    assert_eq!((id, failure.code), (21, ErrorCode::Busy));
    assert!(failure.message.contains("limits.outstanding_requests_per_identity"), "{}", failure.message);
    trains_on(&workers, 1.0).await;
    for (peer, count) in peers.iter_mut().zip([2, 1]) {
        for _ in 0..count {
            assert!(matches!(peer.receive().await, Some((_, Response::Pulled { version: 1, .. }))));
        }
    }
}
