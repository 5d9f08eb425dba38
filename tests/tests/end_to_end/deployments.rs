//! New optimizers: only signed ones, at the boundary of a round, with their state if it fits.

use stepbox_client::{Client, DeployOptions, ErrorCode};
use stepbox_tests::{Options, Publisher, TestServer, component, in_time};

use crate::{bits, init, refused, round, tensor};

async fn scene(name: &'static str, optimizer: &str, settings: &[(&str, &str)]) -> (TestServer, Vec<Client>) {
    let server = TestServer::start(Options { shard_threads: 2, ..Options::new(name) });
    server.deploy(optimizer, "1.0.0", settings).await;
    let workers = server.workers(0..2).await;
    (server, workers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_not_trusted_or_not_admitted_changes_nothing() {
    let (server, workers) = scene("smuggled", "adamw", &[]).await;
    init(&workers, "w", &tensor(&[1.0; 5000])).await;
    round(&workers, "w", &tensor(&[0.5; 5000])).await.unwrap();
    server.deploy("adamw", "1.2.0", &[]).await;
    let before = server.digest().await;

    let good = server.publisher.sign("adamw", "1.3.0");
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let attempts: [(&str, Vec<u8>, ErrorCode); 12] = [
        ("unsigned", component("adamw"), ErrorCode::Untrusted),
        ("one flipped bit", flipped, ErrorCode::Untrusted),
        ("truncated", good[..good.len() - 1].to_vec(), ErrorCode::Untrusted),
        ("unknown publisher", Publisher::new().sign("adamw", "1.3.0"), ErrorCode::Untrusted),
        ("older version", server.publisher.sign("adamw", "1.1.0"), ErrorCode::Untrusted),
        ("no component", b"import pickle".to_vec(), ErrorCode::Untrusted),
        ("endless loop", server.publisher.sign("hostile/endless-loop", "1.0.0"), ErrorCode::NotAdmitted),
        ("memory bomb", server.publisher.sign("hostile/memory-bomb", "1.0.0"), ErrorCode::NotAdmitted),
        ("NaN output", server.publisher.sign("hostile/nan-output", "1.0.0"), ErrorCode::NotAdmitted),
        ("recursion", server.publisher.sign("hostile/recursion", "1.0.0"), ErrorCode::NotAdmitted),
        ("signed as another", server.publisher.sign_as("lion", "adamw", "1.3.0"), ErrorCode::NotAdmitted),
        ("unknown hyperparameter", good.clone(), ErrorCode::Hyperparameter),
    ];
    let deployer = server.client("deployer").await;
    for (attempt, bytes, code) in attempts {
        let mut options = DeployOptions::default();
        if attempt == "unknown hyperparameter" {
            options.hyperparameters.push(("momentum".into(), "0.9".into()));
        }
        let (found, message) = refused(deployer.deploy(bytes, &options).await);
        assert_eq!(found, code, "{attempt}: {message}");
        let status = server.status().await;
        assert_eq!(status.weights_digest.as_deref(), Some(&*before), "{attempt}");
        assert_eq!(status.optimizer.unwrap().version, "1.2.0", "{attempt}");
        assert!(status.pending_optimizer.is_none(), "{attempt}");
    }
    let options = DeployOptions { learning_rate: Some(-1.0), ..DeployOptions::default() };
    assert_eq!(refused(deployer.deploy(good.clone(), &options).await).0, ErrorCode::Hyperparameter);

    // Training continues, and the valid component can still be deployed.
    round(&workers, "w", &tensor(&[0.5; 5000])).await.unwrap();
    deployer.deploy(good, &DeployOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_older_version_stays_refused_after_a_restart() {
    let mut server = TestServer::start(Options::new("restarted"));
    server.deploy("adamw", "2.0.0", &[]).await;
    server.restart();
    let old = server.publisher.sign("adamw", "1.9.9");
    let (code, message) = refused(server.client("deployer").await.deploy(old, &DeployOptions::default()).await);
    assert_eq!(code, ErrorCode::Untrusted);
    assert!(message.contains("older"), "{message}");
    server.deploy("adamw", "2.0.0", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_version_of_the_same_optimizer_keeps_its_state() {
    const ROUNDS: usize = 10;
    let start: Vec<f32> = (0..150_000).map(|index| (index % 977) as f32 * 0.01 - 4.0).collect();
    let gradient = |number: usize| tensor(&start.iter().map(|x| x * 0.3 + number as f32 * 0.01).collect::<Vec<_>>());
    let mut digests = Vec::new();
    for replaced in [false, true] {
        let (server, workers) = scene("kept", "adamw", &[]).await;
        init(&workers, "w", &tensor(&start)).await;
        for number in 1..=ROUNDS {
            if replaced && number == 6 {
                let deployment = server.deploy("adamw", "1.1.0", &[]).await;
                assert!(deployment.state_kept);
                assert_eq!(deployment.from_round, 6);
            }
            round(&workers, "w", &gradient(number)).await.unwrap();
        }
        digests.push(server.digest().await);
    }
    assert_eq!(digests[0], digests[1], "moments and step counts continue as if nothing had been replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_optimizer_keeps_the_weights_and_starts_its_state_afresh() {
    let start: Vec<f32> = (0..150_000).map(|index| (index % 977) as f32 * 0.01 - 4.0).collect();
    let gradient = tensor(&start.iter().map(|x| x * 0.3 + 0.5).collect::<Vec<_>>());
    let (server, workers) = scene("fresh", "lion", &[]).await;
    init(&workers, "w", &tensor(&start)).await;
    let mut weights = tensor(&start);
    for _ in 0..3 {
        weights = round(&workers, "w", &gradient).await.unwrap();
    }
    let deployment = server.deploy("adamw", "1.0.0", &[]).await;
    assert!(!deployment.state_kept);
    assert_eq!(deployment.from_round, 4);
    assert_eq!(
        bits(&workers[0].pull("w").await.unwrap()),
        bits(&weights),
        "a deployment alone does not change weights"
    );

    // As if training had begun with these weights, including bias corrections.
    let (_other_server, others) = scene("fresh", "adamw", &[]).await;
    init(&others, "w", &weights).await;
    for _ in 0..3 {
        let (first, second) = (round(&workers, "w", &gradient).await, round(&others, "w", &gradient).await);
        assert_eq!(bits(&first.unwrap()), bits(&second.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_round_under_way_ends_with_the_optimizer_it_began_with() {
    let (server, workers) = scene("boundary", "sgd", &[("learning_rate", "1")]).await;
    init(&workers, "a", &tensor(&[0.0])).await;
    init(&workers, "b", &tensor(&[0.0])).await;
    let one = tensor(&[1.0]);
    round(&workers, "a", &one).await.unwrap();

    // Key a is before round 2, which one worker has pushed; key b is before round 1.
    workers[0].push("a", &one).await.unwrap();
    let deployment = server.deploy("sgd", "1.1.0", &[("learning_rate", "100")]).await;
    assert_eq!(deployment.from_round, 3);
    let status = server.status().await;
    assert_eq!(status.optimizer.unwrap().version, "1.0.0");
    assert_eq!(status.pending_optimizer.map(|(pending, round)| (pending.version, round)), Some(("1.1.0".into(), 3)));

    // A key that is created in between takes part in both rounds.
    init(&workers, "c", &tensor(&[0.0])).await;

    workers[1].push("a", &one).await.unwrap();
    assert_eq!(workers[0].pull("a").await.unwrap().values(), [-2.0]);
    assert_eq!(workers[1].pull("a").await.unwrap().values(), [-2.0]);
    for (key, done) in [("b", 0.0), ("c", 0.0)] {
        for number in 1..=2 {
            assert_eq!(round(&workers, key, &one).await.unwrap().values(), [done - number as f32], "{key} {number}");
        }
    }
    for key in ["a", "b", "c"] {
        assert_eq!(round(&workers, key, &one).await.unwrap().values(), [-102.0], "{key}");
    }
    let status = server.status().await;
    assert_eq!(status.optimizer.unwrap().version, "1.1.0");
    assert!(status.pending_optimizer.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deployment_replaces_one_that_is_under_way() {
    let (server, workers) = scene("replaced", "sgd", &[("learning_rate", "1")]).await;
    let one = tensor(&[1.0]);
    init(&workers, "ahead", &tensor(&[0.0])).await;
    init(&workers, "behind", &tensor(&[0.0])).await;
    round(&workers, "ahead", &one).await.unwrap();
    assert_eq!(server.deploy("sgd", "1.1.0", &[("learning_rate", "10")]).await.from_round, 2);
    assert_eq!(round(&workers, "ahead", &one).await.unwrap().values(), [-11.0]);
    // One key has run a round; the other is before round 1 and will never run a round with the second optimizer.
    assert_eq!(server.deploy("sgd", "1.2.0", &[("learning_rate", "100")]).await.from_round, 3);
    assert_eq!(round(&workers, "ahead", &one).await.unwrap().values(), [-111.0]);
    for expected in [-1.0, -2.0, -102.0] {
        assert_eq!(round(&workers, "behind", &one).await.unwrap().values(), [expected]);
    }
    assert_eq!(server.status().await.optimizer.unwrap().version, "1.2.0");
}

/// Ten deployments while two workers train as fast as they can, compared with a run without deployments.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn deployments_in_the_middle_of_training_lose_no_round_and_no_state() {
    const ROUNDS: u64 = 300;
    const KEYS: [(&str, usize); 3] = [("large", 150_000), ("small", 100), ("tiny", 1)];
    let mut digests = Vec::new();
    for disturbed in [false, true] {
        let (server, workers) = scene("disturbed", "adamw", &[]).await;
        for (key, elements) in KEYS {
            init(&workers, key, &tensor(&vec![1.0; elements])).await;
        }
        let train = async |rank: usize| {
            for number in 1..=ROUNDS {
                for (key, elements) in KEYS {
                    let gradient = tensor(&vec![(number % 7) as f32 - 3.0 + rank as f32; elements]);
                    workers[rank].push_pull(key, &gradient).await.unwrap();
                }
            }
        };
        let deploy = async {
            for version in 1..=if disturbed { 10 } else { 0 } {
                let deployment = server.deploy("adamw", &format!("1.0.{version}"), &[]).await;
                assert!(deployment.state_kept);
            }
        };
        in_time(async { tokio::join!(train(0), train(1), deploy) }).await;
        let status = server.status().await;
        assert!(status.keys.iter().all(|key| key.version == ROUNDS));
        assert_eq!(status.updates, ROUNDS * KEYS.len() as u64);
        digests.push(status.weights_digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_may_come_before_the_first_optimizer_but_gradients_may_not() {
    let server = TestServer::start(Options::new("first"));
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[5.0])).await;
    let (code, message) = refused(workers[0].push("w", &tensor(&[1.0])).await);
    assert_eq!(code, ErrorCode::NoOptimizer);
    assert!(message.contains("stepbox deploy"), "{message}");
    let deployment = server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    assert_eq!((deployment.from_round, deployment.state_kept), (1, false));
    assert_eq!(round(&workers, "w", &tensor(&[1.0])).await.unwrap().values(), [4.0]);
}
