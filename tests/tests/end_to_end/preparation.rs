//! An optimizer that is being prepared: whatever it does, training continues, and other events can end the preparation.

use std::time::{Duration, Instant};

use stepbox_client::{Client, ClientError, DeployOptions, Deployment, ErrorCode};
use stepbox_tests::{Options, TestServer, component, in_time};
use tokio::task::JoinHandle;

use crate::{init, reason, round, tensor};

/// Enough tensors that the guest spends several seconds of its fuel on them.
const KEYS: usize = 600;

/// Rounds of one key, which together take a small part of that time.
const ROUNDS: usize = 100;

/// More fuel than the guest spends.
const PLENTY: &str = "[sandbox.limits]\npreparation_fuel = 1_000_000_000_000";

/// A server with one shard and one worker, with an optimizer in force and an earlier one to roll back to.
async fn scene(name: &'static str, more: &'static str) -> (TestServer, Vec<Client>) {
    let server = TestServer::start(Options { workers: 1, more, ..Options::new(name) });
    for version in ["1.0.0", "1.1.0"] {
        server.deploy("sgd", version, &[("learning_rate", "1")]).await;
    }
    let workers = server.workers(0..1).await;
    for key in 0..KEYS {
        init(&workers, &format!("layers.{key}.bias"), &tensor(&[0.0])).await;
    }
    (server, workers)
}

/// The hostile guest `slow-starter` with a trick selected, signed.
fn slow_starter(server: &TestServer, trick: u8) -> Vec<u8> {
    const MARK: &[u8] = b"trick of choice: ";
    let mut bytes = component("hostile/slow-starter");
    let mark = bytes.windows(MARK.len()).position(|window| window == MARK).expect("the guest has tricks");
    bytes[mark + MARK.len()] = trick;
    server.publisher.sign_bytes(&bytes, "slow-starter", "1.0.0")
}

/// Activates the guest. It was submitted before, so that it is already compiled and tried, and only has to be prepared.
/// Also returns its digest.
async fn begin(server: &TestServer, trick: u8) -> (String, JoinHandle<Result<Deployment, ClientError>>) {
    let deployer = server.client("deployer").await;
    let digest = deployer.submit(slow_starter(server, trick)).await.unwrap().component.digest;
    let wanted = digest.clone();
    let activation = tokio::spawn(async move { deployer.activate(&wanted, &DeployOptions::default()).await });
    (digest, activation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_go_on_while_a_hostile_optimizer_binds_and_a_rollback_cancels_it() {
    let (server, workers) = scene("slow-bind", PLENTY).await;
    let (_, activation) = begin(&server, b'A').await;
    for number in 1..=ROUNDS {
        let weights = round(&workers, "layers.0.bias", &tensor(&[1.0])).await.unwrap();
        assert_eq!(weights.values(), [-(number as f32)]);
    }
    assert!(!activation.is_finished(), "the preparation lasts longer than all these rounds");

    let activator = server.client("activator").await;
    let rollback = in_time(activator.rollback(None)).await.unwrap();
    assert_eq!((rollback.optimizer.name.as_str(), rollback.optimizer.version.as_str()), ("sgd", "1.0.0"));
    assert_eq!(reason(activation.await.unwrap()), (ErrorCode::Busy, "cancelled".into()));
    round(&workers, "layers.1.bias", &tensor(&[1.0])).await.unwrap();
    let status = server.status().await;
    // The other keys move when they reach the round that was chosen for the deployment.
    let (pending, from_round) = status.pending_optimizer.unwrap();
    assert_eq!((pending.name.as_str(), pending.version.as_str()), ("sgd", "1.0.0"));
    assert_eq!(from_round, ROUNDS as u64 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_while_a_hostile_optimizer_plans_and_its_revocation_cancels_it() {
    let (server, workers) = scene("slow-plan", PLENTY).await;
    let (digest, activation) = begin(&server, b'B').await;
    let scheduler = server.client("scheduler").await;
    for key in 0..10 {
        init(&workers, &format!("late.{key}"), &tensor(&[0.0])).await;
        scheduler.set_learning_rate(0.5).await.unwrap();
    }
    assert!(!activation.is_finished(), "new keys and new learning rates do not wait for a plan");

    server.trust(&format!("revoked_digests = ['{digest}']"));
    let outcome = in_time(activation).await.unwrap();
    assert_eq!(reason(outcome), (ErrorCode::Untrusted, "revoked-digest".into()));
    round(&workers, "late.0", &tensor(&[1.0])).await.unwrap();
    assert_eq!(server.status().await.optimizer.unwrap().version, "1.1.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preparation_ends_with_the_right_of_whoever_has_asked_for_it() {
    let (server, _workers) = scene("slow-right", PLENTY).await;
    let (_, activation) = begin(&server, b'A').await;
    // The deployer may still submit, so its connection stays open.
    server.configure(|text| text.replace("deployers = ['slow-right-deployer', ", "deployers = ["));
    match in_time(activation).await.unwrap() {
        Err(ClientError::Refused { code: ErrorCode::Forbidden, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(server.status().await.optimizer.unwrap().version, "1.1.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_calls_of_a_preparation_spend_is_bounded() {
    let (server, workers) = scene("slow-start", "[sandbox.limits]\npreparation_fuel = 100_000_000").await;
    for trick in [b'A', b'B'] {
        let (digest, activation) = begin(&server, trick).await;
        let outcome = in_time(activation).await.unwrap();
        assert_eq!(reason(outcome), (ErrorCode::NotAdmitted, "preparation-fuel".into()));
        server.client("deployer").await.withdraw(&digest).await.unwrap();
    }
    round(&workers, "layers.0.bias", &tensor(&[1.0])).await.unwrap();
    assert_eq!(server.status().await.optimizer.unwrap().version, "1.1.0");
}

/// Prints the duration of rounds of a small key while a large model is prepared for another optimizer, and before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_go_on_while_a_large_model_is_prepared() {
    const LARGE: usize = 16;
    const ELEMENTS: usize = 1 << 20;
    let server = TestServer::start(Options { workers: 1, shard_threads: 2, ..Options::new("large") });
    server.deploy("sgd", "1.0.0", &[]).await;
    let workers = server.workers(0..1).await;
    for key in 0..LARGE {
        init(&workers, &format!("large.{key}"), &tensor(&vec![0.5; ELEMENTS])).await;
    }
    init(&workers, "small", &tensor(&[0.0; 1000])).await;
    let gradient = tensor(&[0.5; 1000]);
    let mut before = Vec::new();
    for _ in 0..ROUNDS {
        before.push(timed_round(&workers, &gradient).await);
    }
    let (deployer, signed) = (server.client("deployer").await, server.publisher.sign("adamw", "1.0.0"));
    let deployment = tokio::spawn(async move { deployer.deploy(signed, &DeployOptions::default()).await });
    let mut meanwhile = Vec::new();
    while !deployment.is_finished() {
        meanwhile.push(timed_round(&workers, &gradient).await);
    }
    deployment.await.unwrap().unwrap();
    for (what, mut times) in [("before", before), ("during the deployment", meanwhile)] {
        times.sort_unstable();
        if let [.., longest] = times[..] {
            println!("{} rounds {what}: median {:?}, longest {longest:?}", times.len(), times[times.len() / 2]);
        }
    }
}

async fn timed_round(workers: &[Client], gradient: &stepbox_client::Tensor) -> Duration {
    let since = Instant::now();
    round(workers, "small", gradient).await.unwrap();
    since.elapsed()
}
