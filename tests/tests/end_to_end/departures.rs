//! Workers that leave: killed, disconnected, or on purpose. No peer waits for them in vain.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use stepbox_client::{ErrorCode, Tensor};
use stepbox_tests::{Options, RawPeer, TestServer, in_time, logged};
use stepbox_wire::{ElementType, Request, Response, TensorType, encode_request};
use tokio::net::TcpStream;

use crate::{init, refused, round, tensor};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_process_killed_within_a_round_is_told_to_the_others() {
    // The timeout of a round is far away: only noticing the death ends the wait before the test's timeout.
    let server = TestServer::start(Options { workers: 3, reconnect_grace_seconds: 0.2, ..Options::new("killed") });
    server.deploy("adamw", "1.0.0", &[]).await;
    let credentials = server.credentials("worker-2");
    let mut victim = Command::new(env!("CARGO_BIN_EXE_waiting-worker"))
        .arg(server.address.to_string())
        .args([&server.authority.certificate(), &credentials.certificate, &credentials.key])
        .arg("3")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let workers = server.workers(0..2).await;
    let gradient = Tensor::new([1000], vec![1.0; 1000]).unwrap();
    for key in ["first", "second"] {
        init(&workers, key, &gradient).await;
    }
    for _ in 0..3 {
        for key in ["first", "second"] {
            round(&workers, key, &gradient).await.unwrap();
        }
    }
    let mut said = String::new();
    BufReader::new(victim.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "waiting\n", "the victim has pushed only the first key of round 4");

    // One worker is already waiting when the victim dies; the other arrives afterwards.
    workers[0].push("second", &gradient).await.unwrap();
    let waiting = workers[0].pull("second");
    tokio::pin!(waiting);
    assert!(poll_once(&mut waiting).await.is_none(), "the round needs the victim's gradient");
    victim.kill().unwrap();
    victim.wait().unwrap();
    let (code, message) = refused(in_time(waiting).await);
    assert_eq!(code, ErrorCode::WorkerLost);
    assert!(message.contains("killed-worker-2 (rank 2) is lost"), "{message}");
    let late = refused(in_time(workers[1].push_pull("second", &gradient)).await);
    assert_eq!(late.0, ErrorCode::WorkerLost);
    assert_eq!(refused(in_time(workers[1].barrier()).await).0, ErrorCode::WorkerLost);
    logged(&["ERROR", "a worker is lost"]);

    // The victim's push of the first key counts, so that key's round completes. When the victim returns, so does the
    // round of the other key.
    round(&workers, "first", &gradient).await.unwrap();
    let back = server.worker(2).await;
    for key in ["first", "second"] {
        assert!(back.init(key, &gradient).await.unwrap().version >= 3);
    }
    back.push("second", &gradient).await.unwrap();
    for worker in &workers {
        in_time(worker.pull("second")).await.unwrap();
    }
    assert!(server.status().await.keys.iter().all(|key| key.version == 4));
}

/// Polls a future once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_gradient_cut_off_in_the_middle_is_not_used() {
    let server = TestServer::start(Options::new("cut-off"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let first = server.worker(0).await;
    let mut second = RawPeer::registered(&server, 1).await;
    let value = Tensor::new([100_000], vec![0.0; 100_000]).unwrap();
    first.init("w", &value).await.unwrap();

    let tensor = TensorType { element: ElementType::F32, shape: vec![100_000] };
    let push = Request::Push { key: "w".into(), round: 1, tensor, loss: None };
    second.send(&encode_request(3, &push, 400_000)).await.unwrap();
    second.send(&[0x41; 200_000]).await.unwrap();
    drop(second);
    logged(&["cut-off-worker-1", "within a frame"]);

    let back = server.worker(1).await;
    back.init("w", &value).await.unwrap();
    first.push("w", &Tensor::new([100_000], vec![1.0; 100_000]).unwrap()).await.unwrap();
    let weights = in_time(back.push_pull("w", &Tensor::new([100_000], vec![3.0; 100_000]).unwrap())).await.unwrap();
    assert!(weights.values().iter().all(|weight| *weight == -2.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_leaves_is_not_waited_for_and_the_next_run_starts_afresh() {
    let server = TestServer::start(Options::new("leaves"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    round(&workers, "w", &tensor(&[1.0])).await.unwrap();
    let (first, second) = tokio::join!(workers[0].barrier(), workers[1].barrier());
    first.and(second).unwrap();

    workers[1].leave().await.unwrap();
    let (code, message) = refused(in_time(workers[0].push_pull("w", &tensor(&[50.0]))).await);
    assert_eq!(code, ErrorCode::WorkerLost);
    assert!(message.contains("leaves-worker-1 (rank 1) has left the job"), "{message}");
    assert_eq!(refused(workers[1].push("w", &tensor(&[1.0])).await).0, ErrorCode::OutOfOrder);
    workers[0].leave().await.unwrap();

    // The next run continues with the weights; the leftover gradient is discarded, and barriers start at 1.
    let workers = server.workers([1, 0]).await;
    for worker in &workers {
        assert_eq!(worker.init("w", &tensor(&[0.0])).await.unwrap().version, 1);
    }
    assert_eq!(round(&workers, "w", &tensor(&[2.0])).await.unwrap().values(), [-3.0]);
    let (first, second) = tokio::join!(workers[0].barrier(), workers[1].barrier());
    first.and(second).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_stops_answers_who_waits() {
    let server = TestServer::start(Options::new("stops"));
    let mut worker = RawPeer::registered(&server, 0).await;
    worker.ask(3, &Request::Barrier { number: 1 }, &[]).await;
    // The answer to this request shows that the server has read the barrier request.
    worker.ask(4, &Request::Pull { key: "none".into(), version: 0, evaluation: false }, &[]).await;
    assert_eq!(worker.refusal().await.1.code, ErrorCode::UnknownKey);
    let stopped = tokio::task::spawn_blocking(move || drop(server));
    let (id, failure) = worker.refusal().await;
    assert_eq!((id, failure.code), (3, ErrorCode::Busy));
    assert!(worker.receive().await.is_none());
    drop(worker);
    in_time(stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_registration_after_another_is_harmless() {
    let server = TestServer::start(Options::new("again"));
    let mut worker = RawPeer::registered(&server, 0).await;
    worker.ask(3, &Request::Register, &[]).await;
    let (_, response) = worker.receive().await.unwrap();
    assert_eq!(response, Response::Registered { rank: 0, workers: 2, barrier: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_comes_and_goes_stands_in_the_audit_log() {
    let mut server = TestServer::start(Options { reconnect_grace_seconds: 0.01, ..Options::new("noted") });
    let [first, second, replaced] = [server.worker(0).await, server.worker(1).await, server.worker(0).await];
    drop(second);
    logged(&["ERROR", "a worker is lost", "noted-worker-1"]);
    replaced.leave().await.unwrap();
    server.client("publisher").await.submissions().await.unwrap();
    drop((first, replaced));

    // A peer with rights that sends nothing is not treated as a peer without rights.
    let stream = TcpStream::connect(server.address).await.unwrap();
    let from = stream.local_addr().unwrap().to_string();
    let mut silent = RawPeer::over(stream, &server, Some(&server.credentials("operator"))).await.unwrap();
    silent.end().await.unwrap();
    logged(&["WARN", &from, "refused: no hello in time"]);
    drop(silent);

    server.restart();
    let log = fs::read_to_string(server.authority.folder().join("state/audit/audit-000001.jsonl")).unwrap();
    for (action, outcome, who) in [
        ("worker-replaced", "noted", "noted-worker-0"),
        ("worker-lost", "noted", "noted-worker-1"),
        ("leave", "allowed", "noted-worker-0"),
        ("submissions", "allowed", "noted-publisher"),
        ("connect", "refused", &from),
    ] {
        let parts = [("action", action), ("outcome", outcome)].map(|(name, value)| format!("\"{name}\":\"{value}\""));
        let of_it = |line: &&str| parts.iter().all(|part| line.contains(part)) && line.contains(who);
        assert_eq!(log.lines().filter(of_it).count(), 1, "{action} of {who} in {log}");
    }
    assert!(!log.contains("no part in a job"), "{log}");
}
