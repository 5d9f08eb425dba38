//! Rollbacks to an earlier deployment: by one command, at the boundary of a round, and only to what was deployed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use stepbox_client::{Client, DeployOptions, ErrorCode, Standing};
use stepbox_tests::{Options, Publisher, TestServer};
use stepbox_trust::{Claims, TrustStore};

use crate::{bits, init, reason, refused, round, tensor};

async fn scene(name: &'static str) -> (TestServer, Vec<Client>) {
    let server = TestServer::start(Options { shard_threads: 2, ..Options::new(name) });
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    (server, workers)
}

/// Runs one round with a gradient of 1. Returns the distance that the weight has moved.
async fn step(workers: &[Client]) -> f32 {
    let before = workers[0].pull("w").await.unwrap().values()[0];
    before - round(workers, "w", &tensor(&[1.0])).await.unwrap().values()[0]
}

fn rate(learning_rate: f64) -> DeployOptions {
    DeployOptions { learning_rate: Some(learning_rate), ..DeployOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_optimizer_before_takes_over_with_its_options_and_each_rollback_goes_one_further() {
    let (server, workers) = scene("rolled-back").await;
    let deployer = server.client("deployer").await;
    assert_eq!(reason(deployer.rollback(None).await), (ErrorCode::UnknownComponent, "no-previous-deployment".into()));
    for (version, learning_rate) in [("1.0.0", 1.0), ("1.1.0", 10.0), ("1.2.0", 100.0), ("1.3.0", 1000.0)] {
        server.deploy_with("sgd", version, &rate(learning_rate)).await.unwrap();
        assert_eq!(step(&workers).await, learning_rate as f32);
    }
    let previous = |status: &stepbox_client::ServerStatus| {
        status.deployment.previous.iter().map(|optimizer| optimizer.version.clone()).collect::<Vec<_>>()
    };
    assert_eq!(previous(&server.status().await), ["1.2.0", "1.1.0", "1.0.0"]);

    // During a round: it ends with the optimizer that it began with.
    workers[0].push("w", &tensor(&[1.0])).await.unwrap();
    let deployment = deployer.rollback(None).await.unwrap();
    assert_eq!((&*deployment.optimizer.version, deployment.from_round, deployment.state_kept), ("1.2.0", 6, true));
    assert_eq!(deployment.schedule.learning_rate, 100.0);
    workers[1].push("w", &tensor(&[1.0])).await.unwrap();
    let before = workers[1].pull("w").await.unwrap().values()[0];
    assert_eq!(before, -2111.0);
    workers[0].pull("w").await.unwrap();
    assert_eq!(step(&workers).await, 100.0);
    assert_eq!(previous(&server.status().await), ["1.1.0", "1.0.0"]);

    // Skips one deployment, by the digest of the target.
    let first = server.status().await.deployment.previous.pop().unwrap();
    let unknown = "0".repeat(64);
    assert_eq!(refused(deployer.rollback(Some(&unknown)).await).0, ErrorCode::UnknownComponent);
    let deployment = deployer.rollback(Some(&first.digest.to_uppercase())).await.unwrap();
    assert_eq!(deployment.optimizer.version, "1.0.0");
    assert_eq!(step(&workers).await, 1.0);
    assert_eq!(refused(deployer.rollback(None).await).0, ErrorCode::UnknownComponent);

    // The rollback does not circumvent versions: a deployment still requires the highest version or a higher one.
    for (version, expected) in [("1.2.0", Some("downgrade")), ("1.3.0", None)] {
        let outcome = server.deploy_with("sgd", version, &rate(1.0)).await;
        match expected {
            Some(expected) => assert_eq!(reason(outcome), (ErrorCode::Untrusted, expected.into())),
            None => drop(outcome.unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn state_is_kept_or_not_as_in_any_deployment_and_the_answer_says_so() {
    let start: Vec<f32> = (0..150_000).map(|index| (index % 977) as f32 * 0.01 - 4.0).collect();
    let gradient = tensor(&start.iter().map(|x| x * 0.3 + 0.5).collect::<Vec<_>>());
    let mut digests = Vec::new();
    for disturbed in [false, true] {
        let (server, workers) = scene("kept-back").await;
        init(&workers, "m", &tensor(&start)).await;
        server.deploy("adamw", "1.0.0", &[]).await;
        for number in 1..=6 {
            if disturbed && number == 3 {
                server.deploy("adamw", "1.1.0", &[]).await;
            }
            if disturbed && number == 5 {
                assert!(server.client("deployer").await.rollback(None).await.unwrap().state_kept);
            }
            round(&workers, "m", &gradient).await.unwrap();
        }
        digests.push(server.digest().await);
        let weights = workers[0].pull("m").await.unwrap();
        server.deploy("lion", "1.0.0", &[]).await;
        let back = server.client("deployer").await.rollback(None).await.unwrap();
        assert_eq!((&*back.optimizer.name, back.state_kept), ("adamw", false), "lion keeps none of the state");
        assert_eq!(
            bits(&workers[0].pull("m").await.unwrap()),
            bits(&weights),
            "a rollback alone does not change weights"
        );
        round(&workers, "m", &gradient).await.unwrap();
    }
    assert_eq!(digests[0], digests[1], "as if nothing had been deployed in between");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_restarted_server_goes_back_to_what_it_has_kept_after_it_has_verified_it_anew() {
    let (mut server, workers) = scene("kept-files").await;
    drop(workers);
    for (version, learning_rate) in [("1.0.0", 1.0), ("1.1.0", 10.0), ("1.2.0", 100.0)] {
        server.deploy_with("sgd", version, &rate(learning_rate)).await.unwrap();
    }
    server.restart();
    let previous = server.status().await.deployment.previous;
    let file = |index: usize| {
        let digest = &previous[index].digest;
        server.authority.folder().join(format!("state/components/{digest}.wasm"))
    };
    assert_eq!(fs::metadata(file(0)).unwrap().permissions().mode() & 0o777, 0o600);
    let deployer = server.client("deployer").await;

    // A stored file is not trusted by its place: not another signed file, not a changed file, not a missing file.
    let good = fs::read(file(0)).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let another = server.publisher.sign("sgd", "1.1.0-rc.1");
    for (planted, expected) in [(another, "digest-mismatch"), (flipped, "bad-signature")] {
        fs::write(file(0), planted).unwrap();
        assert_eq!(reason(deployer.rollback(None).await), (ErrorCode::Untrusted, expected.into()));
    }
    fs::remove_file(file(0)).unwrap();
    assert_eq!(reason(deployer.rollback(None).await), (ErrorCode::UnknownComponent, "component-lost".into()));
    assert!(server.status().await.optimizer.is_none());
    fs::write(file(0), good).unwrap();

    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    assert_eq!(deployer.rollback(None).await.unwrap().optimizer.version, "1.2.0", "the optimizer that ran last");
    assert_eq!(step(&workers).await, 100.0, "with its former options");
    assert_eq!(deployer.rollback(None).await.unwrap().optimizer.version, "1.1.0");
    assert_eq!(step(&workers).await, 10.0, "with its former options");
}

/// A rollback leaves the higher version in the ledger. After a restart no optimizer runs, and the one that ran last can
/// be deployed again; other versions below the highest remain refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_rollback_went_back_to_is_deployed_again_after_a_restart() {
    let (mut server, workers) = scene("back-and-restarted").await;
    drop(workers);
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        server.deploy_with("sgd", version, &rate(1.0)).await.unwrap();
    }
    server.client("deployer").await.rollback(None).await.unwrap();
    server.restart();
    let refused = server.deploy_with("sgd", "1.0.0", &rate(1.0)).await;
    assert_eq!(reason(refused).0, ErrorCode::Untrusted, "that version did not run last");
    server.deploy_with("sgd", "1.1.0", &rate(10.0)).await.unwrap();
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    assert_eq!(step(&workers).await, 10.0);
    server.deploy_with("sgd", "1.2.0", &rate(1.0)).await.unwrap();
}

/// An attacker who can write the index, but not the ledger, cannot restore a version that was never deployed.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_old_file_that_was_never_deployed_is_no_rollback() {
    let (mut server, workers) = scene("planted").await;
    drop(workers);
    for version in ["1.0.0", "1.1.0"] {
        server.deploy_with("sgd", version, &rate(1.0)).await.unwrap();
    }
    let components = server.authority.folder().join("state/components");
    let index = fs::read_to_string(components.join("index.toml")).unwrap();
    let former = server.status().await.deployment.previous.pop().unwrap();
    let old = server.publisher.sign("sgd", "0.9.0");
    let trust = fs::read_to_string(server.authority.folder().join("publishers.toml")).unwrap();
    let digest = TrustStore::parse(&trust).unwrap().verify(old.clone()).unwrap().digest().to_string();
    fs::write(components.join(format!("{digest}.wasm")), old).unwrap();
    fs::write(components.join("index.toml"), index.replace(&former.digest, &digest)).unwrap();
    server.restart();
    let outcome = server.client("deployer").await.rollback(Some(&digest)).await;
    assert_eq!(reason(outcome), (ErrorCode::Untrusted, "not-deployed-before".into()));
    assert!(server.status().await.optimizer.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_revoked_does_not_come_back_and_who_may_not_deploy_rolls_nothing_back() {
    let (server, workers) = scene("no-way-back").await;
    let bad = server.deploy_with("sgd", "1.0.0", &rate(1.0)).await.unwrap().optimizer;
    server.deploy_with("sgd", "1.1.0", &rate(10.0)).await.unwrap();
    for role in ["publisher", "operator", "worker-1"] {
        let (code, message) = refused(server.client(role).await.rollback(None).await);
        assert_eq!(code, ErrorCode::Forbidden, "{message}");
    }
    // Without waiting for the server's periodic read of the file.
    server.trust(&format!("revoked_digests = ['{}']", bad.digest));
    let outcome = server.client("deployer").await.rollback(None).await;
    assert_eq!(reason(outcome), (ErrorCode::Untrusted, "revoked-digest".into()));
    assert_eq!(server.status().await.optimizer.unwrap().version, "1.1.0");
    assert_eq!(step(&workers).await, 10.0, "training continues");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rollback_goes_past_what_is_not_trusted_any_more_to_what_is() {
    let (server, workers) = scene("further-back").await;
    let mut deployed = Vec::new();
    for (version, learning_rate) in [("1.0.0", 1.0), ("1.1.0", 10.0), ("1.2.0", 100.0)] {
        deployed.push(server.deploy_with("sgd", version, &rate(learning_rate)).await.unwrap().optimizer.digest);
    }
    let deployer = server.client("deployer").await;
    server.trust(&format!("revoked_digests = {:?}", &deployed[1..]));
    let named = deployer.rollback(Some(&deployed[1])).await;
    assert_eq!(
        reason(named),
        (ErrorCode::Untrusted, "revoked-digest".into()),
        "a named target is not replaced with another"
    );
    assert_eq!(deployer.rollback(None).await.unwrap().optimizer.version, "1.0.0");
    assert_eq!(step(&workers).await, 1.0);
    assert!(server.status().await.deployment.previous.is_empty());
}

/// Anyone can add an entry under the ID of a key that is not listed yet. When the operator lists that key, the running
/// optimizer continues, and rollbacks to it are possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn garbage_among_the_signatures_harms_nothing_when_its_key_is_listed() {
    let (server, workers) = scene("garbage").await;
    let (signed, new) = (server.publisher.sign("sgd", "1.0.0"), Publisher::new());
    let mut files = std::iter::repeat_with(|| {
        let other = Publisher::new();
        let (from, to) = (other.public_key().id(), new.public_key().id());
        let mut file = other.sign_too(&signed);
        let at = file.windows(12).position(|window| window == from.as_bytes()).unwrap();
        file[at..at + 12].copy_from_slice(to.as_bytes());
        file
    });
    // In some files the entries are not in the order of key IDs.
    let file = files.find(|file| Claims::read(file).is_ok()).unwrap();
    let deployer = server.client("deployer").await;
    deployer.deploy(file.clone(), &rate(1.0)).await.unwrap();
    assert_eq!(step(&workers).await, 1.0);

    server.trust(&format!("[[publisher]]\nname = 'New'\npublic_key = '{}'\n", new.public_key()));
    // Each deployment reads the trust file first. As a new file, this one is refused: the signature of a listed key is
    // wrong.
    assert_eq!(reason(deployer.deploy(file, &rate(1.0)).await), (ErrorCode::Untrusted, "bad-signature".into()));
    assert_eq!(server.status().await.deployment.standing, Standing::Trusted);
    assert_eq!(step(&workers).await, 1.0);
    server.deploy_with("sgd", "1.1.0", &rate(10.0)).await.unwrap();
    assert_eq!(step(&workers).await, 10.0);
    assert_eq!(deployer.rollback(None).await.unwrap().optimizer.version, "1.0.0");
    assert_eq!(server.status().await.deployment.standing, Standing::Trusted);
    assert_eq!(step(&workers).await, 1.0);
}
