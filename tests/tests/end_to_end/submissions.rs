//! Submitting code and activating it, as separate rights of two people.

use std::fs;

use stepbox_client::{DeployOptions, ErrorCode};
use stepbox_tests::{Options, Publisher, RawPeer, TestServer, component, in_time};
use stepbox_wire::{Request, Response, encode_request};

use crate::{init, reason, refused, round, tensor};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_brings_and_another_activates_and_neither_can_do_both() {
    let server = TestServer::start(Options::new("two-people"));
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    let (publisher, activator) = (server.client("publisher").await, server.client("activator").await);
    let file = server.publisher.sign("sgd", "1.0.0");
    let options = DeployOptions { learning_rate: Some(2.0), ..DeployOptions::default() };

    // Submitting code without the right to submit.
    assert_eq!(reason(activator.submit(file.clone()).await), (ErrorCode::Forbidden, "not-a-publisher".into()));
    assert_eq!(
        reason(activator.deploy(file.clone(), &options).await),
        (ErrorCode::Forbidden, "not-a-publisher".into())
    );
    let submitted = publisher.submit(file.clone()).await.unwrap();
    assert_eq!((&*submitted.component.name, &*submitted.component.version), ("sgd", "1.0.0"));
    assert_eq!((submitted.bytes, &*submitted.submitted_by), (file.len() as u64, &*server.identity("publisher")));
    let digest = &submitted.component.digest;

    // Activating it without the right to deploy.
    for outcome in [
        publisher.activate(digest, &options).await,
        publisher.deploy(file.clone(), &options).await,
        publisher.rollback(None).await,
    ] {
        assert_eq!(reason(outcome), (ErrorCode::Forbidden, "not-a-deployer".into()));
    }
    for role in ["worker-0", "operator"] {
        let client = server.client(role).await;
        assert_eq!(refused(client.submit(file.clone()).await).0, ErrorCode::Forbidden, "{role}");
        assert_eq!(refused(client.activate(digest, &options).await).0, ErrorCode::Forbidden, "{role}");
        assert_eq!(refused(client.withdraw(digest).await).0, ErrorCode::Forbidden, "{role}");
    }
    assert_eq!(refused(server.client("worker-0").await.submissions().await).0, ErrorCode::Forbidden);
    assert!(server.status().await.optimizer.is_none(), "no optimizer runs yet");

    // A second submission changes nothing.
    assert_eq!(publisher.submit(file).await.unwrap(), submitted);
    for client in [&publisher, &activator, &server.client("operator").await] {
        assert_eq!(client.submissions().await.unwrap(), std::slice::from_ref(&submitted));
    }
    let deployment = activator.activate(&digest.to_uppercase(), &options).await.unwrap();
    assert_eq!(deployment.optimizer, submitted.component);
    let workers = server.workers(0..2).await;
    init_again(&workers).await;
    assert_eq!(round(&workers, "w", &tensor(&[1.0])).await.unwrap().values(), [-2.0]);
}

/// Initializes the key with new connections, which thereby learn its version.
async fn init_again(workers: &[stepbox_client::Client]) {
    for worker in workers {
        worker.init("w", &tensor(&[0.0])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_could_not_be_deployed_is_not_kept_either() {
    let server = TestServer::start(Options::new("submitted-badly"));
    server.deploy("sgd", "2.0.0", &[]).await;
    let publisher = server.client("publisher").await;
    let good = server.publisher.sign("sgd", "2.1.0");
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (attempt, code, expected) in [
        (component("sgd"), ErrorCode::Untrusted, "unsigned"),
        (flipped, ErrorCode::Untrusted, "bad-signature"),
        (Publisher::new().sign("sgd", "2.1.0"), ErrorCode::Untrusted, "unknown-key"),
        (server.publisher.sign("sgd", "1.9.0"), ErrorCode::Untrusted, "downgrade"),
        (server.publisher.sign_as("lion", "sgd", "2.1.0"), ErrorCode::NotAdmitted, "signed-as-another"),
        (server.publisher.sign("hostile/endless-loop", "1.0.0"), ErrorCode::NotAdmitted, "out-of-fuel"),
        (server.publisher.sign("hostile/memory-bomb", "1.0.0"), ErrorCode::NotAdmitted, "memory-limit"),
        (server.publisher.sign("hostile/nan-output", "1.0.0"), ErrorCode::NotAdmitted, "not-finite-output"),
        (server.publisher.sign("hostile/recursion", "1.0.0"), ErrorCode::NotAdmitted, "stack-overflow"),
    ] {
        assert_eq!(reason(publisher.submit(attempt).await), (code, expected.into()));
    }
    assert!(publisher.submissions().await.unwrap().is_empty());
    let kept = fs::read_dir(server.authority.folder().join("state/components")).unwrap().count();
    assert_eq!(kept, 2, "the deployed component and the index");
    publisher.submit(good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_submission_is_held_against_trust_and_versions_again_when_it_is_activated() {
    let mut server = TestServer::start(Options::new("activated-late"));
    let publisher = server.client("publisher").await;
    let old = publisher.submit(server.publisher.sign("sgd", "1.0.0")).await.unwrap().component;
    let bad = publisher.submit(server.publisher.sign("adamw", "1.0.0")).await.unwrap().component;
    let kept = publisher.submit(server.publisher.sign("lion", "1.0.0")).await.unwrap().component;
    drop(publisher);
    server.deploy("sgd", "1.1.0", &[]).await;
    server.trust(&format!("revoked_digests = ['{}']", bad.digest));
    server.restart();

    let activator = server.client("activator").await;
    let options = DeployOptions::default();
    for (digest, code, expected) in [
        (&*old.digest, ErrorCode::Untrusted, "downgrade"),
        (&*bad.digest, ErrorCode::Untrusted, "revoked-digest"),
        (&*"0".repeat(64), ErrorCode::UnknownComponent, "not-submitted"),
        ("../../publishers.toml", ErrorCode::UnknownComponent, ""),
    ] {
        if expected.is_empty() {
            // The client refuses it already.
            activator.activate(digest, &options).await.unwrap_err();
        } else {
            assert_eq!(reason(activator.activate(digest, &options).await), (code, expected.into()));
        }
    }
    let path = server.authority.folder().join(format!("state/components/{}.wasm", kept.digest));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, server.publisher.sign("lion", "1.0.1")).unwrap();
    let outcome = activator.activate(&kept.digest, &options).await;
    assert_eq!(reason(outcome), (ErrorCode::Untrusted, "digest-mismatch".into()));
    fs::write(&path, bytes).unwrap();
    let unfit = DeployOptions { learning_rate: Some(-1.0), ..DeployOptions::default() };
    assert_eq!(refused(activator.activate(&kept.digest, &unfit).await).0, ErrorCode::Hyperparameter);
    assert!(server.status().await.optimizer.is_none());
    assert_eq!(activator.activate(&kept.digest, &options).await.unwrap().optimizer, kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn submissions_have_limits_and_their_owner_and_deployers_make_room() {
    let more = "[limits]\nsubmissions = 3\nsubmissions_per_identity = 2\n";
    let server = TestServer::start(Options { more, ..Options::new("crowded") });
    let (publisher, deployer) = (server.client("publisher").await, server.client("deployer").await);
    let sign = |minor: u32| server.publisher.sign("sgd", &format!("1.{minor}.0"));
    let first = publisher.submit(sign(0)).await.unwrap().component.digest;
    publisher.submit(sign(1)).await.unwrap();
    let (code, message) = refused(publisher.submit(sign(2)).await);
    assert_eq!(code, ErrorCode::Busy);
    assert!(message.contains("limits.submissions_per_identity") && message.contains("--withdraw"), "{message}");
    let others = deployer.submit(sign(3)).await.unwrap().component.digest;
    let (code, message) = refused(deployer.submit(sign(4)).await);
    assert_eq!(code, ErrorCode::Busy);
    assert!(message.contains("(limits.submissions)"), "{message}");

    assert_eq!(refused(publisher.withdraw(&others).await).0, ErrorCode::UnknownComponent, "another's");
    publisher.withdraw(&first).await.unwrap();
    assert_eq!(refused(publisher.withdraw(&first).await).0, ErrorCode::UnknownComponent);
    let path = |digest: &str| server.authority.folder().join(format!("state/components/{digest}.wasm"));
    assert!(!path(&first).exists() && path(&others).exists());
    publisher.submit(sign(2)).await.unwrap();
    for submission in deployer.submissions().await.unwrap() {
        deployer.withdraw(&submission.component.digest).await.unwrap();
    }
    assert!(deployer.submissions().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_bytes_of_all_submissions_together_have_a_limit() {
    let more = "[limits]\nsubmission_bytes = 1000\n";
    let server = TestServer::start(Options { more, ..Options::new("heavy") });
    let (code, message) = refused(server.client("publisher").await.submit(server.publisher.sign("sgd", "1.0.0")).await);
    assert_eq!(code, ErrorCode::Busy);
    assert!(message.contains("limits.submission_bytes"), "{message}");
}

/// A peer that sends an endless component does not delay others: a component waits for its turn only after it has
/// arrived.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_component_that_does_not_end_holds_up_no_other_and_no_rollback() {
    let server = TestServer::start(Options::new("endless"));
    for version in ["1.0.0", "1.1.0"] {
        server.deploy("sgd", version, &[]).await;
    }
    let deployer = server.client("deployer").await;
    let file = server.publisher.sign("sgd", "1.2.0");
    let (mut publisher, mut other) =
        (RawPeer::greeted(&server, "publisher").await, RawPeer::greeted(&server, "deployer").await);
    let (submit, deploy) = (Request::Submit, Request::Deploy(DeployOptions::default()));
    for (peer, request) in [(&mut publisher, &submit), (&mut other, &deploy)] {
        peer.send(&encode_request(2, request, file.len() as u64)).await.unwrap();
        peer.send(&file[..100]).await.unwrap();
    }
    // The server begins to read them at some time during these rounds.
    for _ in 0..20 {
        deployer.submit(file.clone()).await.unwrap();
    }
    assert_eq!(deployer.rollback(None).await.unwrap().optimizer.version, "1.0.0");
    publisher.send(&file[100..]).await.unwrap();
    assert!(matches!(in_time(publisher.receive()).await, Some((2, Response::Submitted(_)))));
    other.send(&file[100..]).await.unwrap();
    assert!(matches!(in_time(other.receive()).await, Some((2, Response::Deployed { .. }))));
}

/// A person who has a file with fewer signatures cannot remove the others by submitting it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_submitted_again_may_gain_signatures_and_loses_none() {
    let server = TestServer::start(Options::new("signatures"));
    let board = Publisher::new();
    server.trust(&format!("[[publisher]]\nname = 'Board'\npublic_key = '{}'\n", board.public_key()));
    let publisher = server.client("publisher").await;
    let one = server.publisher.sign("sgd", "1.0.0");
    let (both, strange) = (board.sign_too(&one), Publisher::new().sign_too(&one));
    let digest = publisher.submit(one.clone()).await.unwrap().component.digest;
    let path = server.authority.folder().join(format!("state/components/{digest}.wasm"));
    for (submitted, kept) in [(&strange, &one), (&both, &both), (&one, &both), (&strange, &both), (&both, &both)] {
        assert_eq!(publisher.submit(submitted.clone()).await.unwrap().component.digest, digest);
        assert!(fs::read(&path).unwrap() == *kept, "a different file is stored");
    }
    server.client("activator").await.activate(&digest, &DeployOptions::default()).await.unwrap();
    assert!(fs::read(&path).unwrap() == both, "the running component is stored as submitted");
}
