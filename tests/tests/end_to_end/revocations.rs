//! Trust that ends while the optimizer runs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use stepbox_client::{Client, DeployOptions, ErrorCode, ServerStatus, Standing};
use stepbox_tests::{Options, Publisher, TestServer, in_time, logged};

use crate::{bits, init, reason, refused, round, tensor};

const RATE_1: &[(&str, &str)] = &[("learning_rate", "1")];

/// A server with two workers and a key. With [`ASKED`], the server reads the trust file so rarely that the test has to
/// request it.
async fn scene(name: &'static str, trust: &'static str) -> (TestServer, Vec<Client>) {
    let server = TestServer::start(Options { shard_threads: 2, trust, ..Options::new(name) });
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    (server, workers)
}

const ASKED: &str = "reload_seconds = 600000";

/// Waits until the status satisfies a condition, and returns it.
async fn status_when(server: &TestServer, holds: impl Fn(&ServerStatus) -> bool) -> ServerStatus {
    let operator = server.client("operator").await;
    in_time(async {
        loop {
            let status = operator.status(true).await.unwrap();
            if holds(&status) {
                return status;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_revoked_optimizer_is_paused_and_a_trusted_one_goes_on() {
    let (server, workers) = scene("revoked", ASKED).await;
    init(&workers, "other", &tensor(&[0.0])).await;
    let one = tensor(&[1.0]);
    server.deploy("sgd", "1.0.0", RATE_1).await;
    // Deployed twice, with different options: a rollback to the first of these deployments is impossible too.
    server.deploy("sgd", "1.1.0", &[("learning_rate", "20")]).await;
    let bad = server.deploy("sgd", "1.1.0", &[("learning_rate", "10")]).await.optimizer;
    assert_eq!(server.status().await.deployment.standing, Standing::Trusted);
    round(&workers, "w", &one).await.unwrap();
    let before = server.digest().await;

    // One worker waits for the other, which has not pushed its gradient, when the revocation takes effect.
    workers[0].push("w", &one).await.unwrap();
    let waiting = workers[0].pull("w");
    let revoking = async {
        server.trust(&format!("revoked_digests = ['{}']", bad.digest));
        status_when(&server, |status| status.deployment.standing == Standing::Paused).await
    };
    let (woken, status) = in_time(async { tokio::join!(waiting, revoking) }).await;
    let (code, message) = refused(woken);
    assert_eq!(code, ErrorCode::Paused);
    assert!(message.contains(&bad.digest) && message.contains("sgd 1.1.0"), "{message}");
    assert!(message.contains("revoked") && message.contains("stepbox rollback"), "{message}");
    assert_eq!(status.weights_digest.as_deref(), Some(&*before), "nothing of the open round was used");
    let [revoked] = &*status.deployment.revoked else { panic!("{status:?}") };
    assert_eq!((&revoked.optimizer, &*revoked.reason), (&bad, "revoked-digest"));

    // No further round and no further call of the optimizer; existing weights can be read.
    for key in ["w", "other"] {
        assert_eq!(reason(workers[1].push(key, &one).await), (ErrorCode::Paused, "revoked-digest".into()));
        workers[1].pull(key).await.unwrap();
    }
    let rank0 = workers[0].init("late", &one).await;
    assert_eq!(refused(rank0).0, ErrorCode::Paused, "planning for a key would run it too");
    let outcome = server.deploy_with("sgd", "1.1.0", &DeployOptions::default()).await;
    assert_eq!(reason(outcome), (ErrorCode::Untrusted, "revoked-digest".into()));

    // A rollback to the preceding optimizer: the keys move at once, including the key that is one round behind.
    let deployment = server.client("deployer").await.rollback(None).await.unwrap();
    assert_eq!((&*deployment.optimizer.version, deployment.from_round), ("1.0.0", 2));
    let status = server.status().await;
    assert_eq!((status.deployment.standing, status.optimizer.unwrap().version), (Standing::Trusted, "1.0.0".into()));
    assert!(status.pending_optimizer.is_none(), "no key is left with the revoked optimizer");
    assert_eq!(round(&workers, "w", &one).await.unwrap().values(), [-11.0]);
    assert_eq!(round(&workers, "other", &one).await.unwrap().values(), [-1.0]);
    assert_eq!(round(&workers, "other", &one).await.unwrap().values(), [-2.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn by_itself_the_server_looks_at_the_file_again() {
    let (server, workers) = scene("looking", "reload_seconds = 0.01").await;
    let bad = server.deploy("sgd", "1.0.0", RATE_1).await.optimizer;
    workers[0].push("w", &tensor(&[1.0])).await.unwrap();
    let trust = server.authority.folder().join("publishers.toml");
    let good = fs::read_to_string(&trust).unwrap();
    fs::write(&trust, format!("revoked_keys = ['{}']\n{good}", bad.publisher)).unwrap();
    let (code, _) = refused(in_time(workers[0].pull("w")).await);
    assert_eq!(code, ErrorCode::Paused);

    // A revocation that is withdrawn: the same optimizer continues, and the round needs its gradients again.
    fs::write(&trust, good).unwrap();
    status_when(&server, |status| status.deployment.standing == Standing::Trusted).await;
    let (code, message) = refused(workers[0].pull("w").await);
    assert_eq!(code, ErrorCode::OptimizerFailed);
    assert!(message.contains("push the round again"), "{message}");
    assert_eq!(round(&workers, "w", &tensor(&[1.0])).await.unwrap().values(), [-1.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_the_operator_says_so_it_finishes_and_the_status_says_so() {
    let (server, workers) = scene("finishing", "reload_seconds = 600000\non_revocation = 'finish'").await;
    let bad = server.deploy("sgd", "1.0.0", RATE_1).await.optimizer;
    server.trust(&format!("revoked_digests = ['{}']", bad.digest));
    let status = status_when(&server, |status| status.deployment.standing == Standing::Revoked).await;
    assert_eq!(status.deployment.revoked[0].optimizer, bad);
    assert_eq!(round(&workers, "w", &tensor(&[1.0])).await.unwrap().values(), [-1.0]);
    server.deploy("sgd", "1.0.1", RATE_1).await;
    assert_eq!(server.status().await.deployment.standing, Standing::Trusted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broken_trust_file_leaves_the_one_before_in_force_and_deploys_nothing() {
    let (server, workers) = scene("broken", ASKED).await;
    server.deploy("sgd", "1.0.0", RATE_1).await;
    server.trust("revoked_digests = [3]");
    let status = status_when(&server, |status| status.deployment.trust_error.is_some()).await;
    assert_eq!(status.deployment.standing, Standing::Trusted);
    assert!(status.deployment.trust_error.unwrap().contains("publishers.toml"));
    assert_eq!(round(&workers, "w", &tensor(&[1.0])).await.unwrap().values(), [-1.0], "training goes on");
    let options = DeployOptions::default();
    let outcome = server.deploy_with("sgd", "1.1.0", &options).await;
    assert_eq!(
        reason(outcome),
        (ErrorCode::Internal, "trust-file".into()),
        "the unreadable file may contain a revocation"
    );

    server.trust("");
    server.deploy_with("sgd", "1.1.0", &options).await.unwrap();
    assert_eq!(server.status().await.deployment.trust_error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_that_is_to_come_and_is_revoked_never_runs() {
    let (server, workers) = scene("to-come", ASKED).await;
    init(&workers, "behind", &tensor(&[0.0])).await;
    let one = tensor(&[1.0]);
    server.deploy("sgd", "1.0.0", RATE_1).await;
    for _ in 0..2 {
        round(&workers, "w", &one).await.unwrap();
    }
    // The deployment takes effect at round 3: one key has reached it, the other is at round 1.
    let bad = server.deploy("sgd", "1.1.0", &[("learning_rate", "100")]).await;
    assert_eq!(bad.from_round, 3);
    server.trust(&format!("revoked_digests = ['{}']", bad.optimizer.digest));
    status_when(&server, |status| status.deployment.standing == Standing::Paused).await;
    for expected in [-1.0, -2.0] {
        assert_eq!(round(&workers, "behind", &one).await.unwrap().values(), [expected], "with the preceding optimizer");
    }
    for key in ["w", "behind"] {
        assert_eq!(refused(workers[0].push(key, &one).await).0, ErrorCode::Paused, "{key}");
    }
    server.client("deployer").await.rollback(None).await.unwrap();
    for key in ["w", "behind"] {
        assert_eq!(round(&workers, key, &one).await.unwrap().values(), [-3.0], "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_in_use_that_is_revoked_gives_way_at_once_to_a_trusted_one_that_is_to_come() {
    let (server, workers) = scene("gives-way", ASKED).await;
    for key in ["behind", "idle"] {
        init(&workers, key, &tensor(&[0.0])).await;
    }
    let one = tensor(&[1.0]);
    let bad = server.deploy("sgd", "1.0.0", RATE_1).await.optimizer;
    for _ in 0..2 {
        round(&workers, "w", &one).await.unwrap();
    }
    let good = server.deploy("sgd", "1.1.0", &[("learning_rate", "100")]).await;
    assert_eq!(good.from_round, 3);
    workers[0].push("behind", &one).await.unwrap();
    let waiting = workers[0].pull("behind");
    let revoking = async {
        server.trust(&format!("revoked_digests = ['{}']", bad.digest));
        let status = status_when(&server, |status| status.pending_optimizer.is_none()).await;
        workers[1].push("behind", &one).await.unwrap();
        status
    };
    let (woken, status) = in_time(async { tokio::join!(waiting, revoking) }).await;
    assert_eq!(woken.unwrap().values(), [-100.0], "the gradient that had arrived counts for the new optimizer");
    assert_eq!((status.deployment.standing, status.deployment.revoked), (Standing::Trusted, Vec::new()));
    assert_eq!(status.optimizer.unwrap(), good.optimizer);
    for key in ["w", "idle"] {
        let before = workers[0].pull(key).await.unwrap().values()[0];
        assert_eq!(round(&workers, key, &one).await.unwrap().values(), [before - 100.0], "{key}");
    }
    logged(&["refused", "revoke", &bad.digest]);
}

/// Three deployments of which none has reached all keys: whether a key continues depends on the trust in its current
/// optimizer and in the newest one.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_revocation_reaches_the_keys_of_its_optimizer_and_no_others() {
    let one = tensor(&[1.0]);
    // How far a round moves the keys of the first, second and third deployment; `None` if they are paused.
    for (revoked, expected) in [
        (&[1][..], [Some(1.0), Some(100.0), Some(100.0)]),
        (&[0], [Some(100.0), Some(10.0), Some(100.0)]),
        (&[0, 2], [None, Some(10.0), None]),
        (&[1, 2], [Some(1.0), None, None]),
    ] {
        let (server, workers) = scene("three", ASKED).await;
        for key in ["in-first", "in-second", "in-third"] {
            init(&workers, key, &tensor(&[0.0])).await;
        }
        let rounds = async |key: &str, count: usize| {
            for _ in 0..count {
                round(&workers, key, &one).await.unwrap();
            }
        };
        let mut deployed = vec![server.deploy("sgd", "1.0.0", RATE_1).await];
        rounds("in-second", 2).await;
        rounds("in-third", 2).await;
        deployed.push(server.deploy("sgd", "1.1.0", &[("learning_rate", "10")]).await);
        rounds("in-third", 2).await;
        deployed.push(server.deploy("sgd", "1.2.0", &[("learning_rate", "100")]).await);
        assert_eq!(deployed.iter().map(|deployment| deployment.from_round).collect::<Vec<_>>(), [1, 3, 5]);

        let digest = |index: &usize| deployed[*index].optimizer.digest.as_str();
        let digests: Vec<_> = revoked.iter().map(digest).collect();
        server.trust(&format!("revoked_digests = {digests:?}"));
        for digest in &digests {
            logged(&["refused", "revoke", digest]);
        }
        for (key, expected) in ["in-first", "in-second", "in-third"].into_iter().zip(expected) {
            let before = workers[0].pull(key).await.unwrap().values()[0];
            match (round(&workers, key, &one).await, expected) {
                (Ok(weights), Some(step)) => assert_eq!(weights.values(), [before - step], "{revoked:?}: {key}"),
                (outcome, None) => assert_eq!(refused(outcome).0, ErrorCode::Paused, "{revoked:?}: {key}"),
                (Err(error), _) => panic!("{revoked:?}: {key}: {error}"),
            }
        }
        let told = server.status().await.deployment.revoked;
        let told: Vec<_> = told.iter().map(|revoked| revoked.optimizer.digest.as_str()).collect();
        // If the newest deployment is trusted, no key is left with an untrusted one.
        assert_eq!(told, if revoked.contains(&2) { digests } else { Vec::new() });
    }
}

/// Pauses during training at full speed, with an optimizer that has state, on several keys: at any moment, no round is
/// lost or run twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pause_at_any_moment_of_training_costs_no_round_and_no_state() {
    const ROUNDS: u64 = 300;
    const KEYS: [(&str, usize); 3] = [("large", 150_000), ("small", 100), ("tiny", 1)];
    let mut weights = Vec::new();
    for disturbed in [false, true] {
        let (server, workers) = scene("paused", ASKED).await;
        server.deploy("adamw", "1.0.0", &[]).await;
        for (key, elements) in KEYS {
            init(&workers, key, &tensor(&vec![1.0; elements])).await;
        }
        let train = async |rank: usize| {
            for number in 1..=ROUNDS {
                for (key, elements) in KEYS {
                    let gradient = tensor(&vec![(number % 7) as f32 - 3.0 + rank as f32; elements]);
                    // The loop of a worker that waits for the operator.
                    loop {
                        match workers[rank].push_pull(key, &gradient).await {
                            Ok(_) => break,
                            Err(error) => {
                                let code = error.code().unwrap_or_else(|| panic!("{error}"));
                                assert!([ErrorCode::Paused, ErrorCode::OptimizerFailed].contains(&code), "{error}");
                            }
                        }
                    }
                }
            }
        };
        let disturb = async {
            for version in 1..=if disturbed { 5 } else { 0 } {
                let bad = server.deploy("adamw", &format!("1.0.{version}"), &[]).await.optimizer;
                server.trust(&format!("revoked_digests = ['{}']", bad.digest));
                status_when(&server, |status| status.deployment.standing == Standing::Paused).await;
                assert!(server.client("deployer").await.rollback(None).await.unwrap().state_kept);
            }
        };
        in_time(async { tokio::join!(train(0), train(1), disturb) }).await;
        let status = server.status().await;
        assert!(status.keys.iter().all(|key| key.version == if key.key == "w" { 0 } else { ROUNDS }));
        let mut pulled = Vec::new();
        for (key, _) in KEYS {
            pulled.push(bits(&workers[0].pull(key).await.unwrap()));
        }
        weights.push(pulled);
    }
    assert!(weights[0] == weights[1], "the pauses changed the weights");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_way_in_which_trust_ends_reaches_what_runs() {
    let (server, workers) = scene("untrusted", ASKED).await;
    let optimizer = server.deploy("sgd", "1.0.0", RATE_1).await.optimizer;
    let path = server.authority.folder().join("publishers.toml");
    let key = server.publisher.public_key();
    for (trust, expected) in [
        (format!("[[publisher]]\nname = 'Other'\npublic_key = '{}'", Publisher::new().public_key()), "unknown-key"),
        (
            format!(
                "[[publisher]]\nname = 'Example'\n[[publisher.key]]\npublic_key = '{key}'\nvalid_until = 2026-01-01"
            ),
            "expired-key",
        ),
        (
            format!("[[publisher]]\nname = 'Example'\npublic_key = '{key}'\nnamespaces = ['team-a/*']"),
            "name-not-allowed",
        ),
        (
            format!("[[publisher]]\nname = 'Example'\npublic_key = '{key}'\n[minimum_versions]\nsgd = '1.0.1'"),
            "below-minimum-version",
        ),
    ] {
        fs::write(&path, format!("{trust}\n[end]\n")).unwrap();
        server.reload();
        let revoked = |status: &ServerStatus| status.deployment.revoked.iter().any(|one| one.reason == expected);
        let status = status_when(&server, revoked).await;
        assert_eq!(
            (status.deployment.standing, &status.deployment.revoked[0].optimizer),
            (Standing::Paused, &optimizer)
        );
        let pushed = workers[0].push("w", &tensor(&[1.0])).await;
        assert_eq!(reason(pushed), (ErrorCode::Paused, expected.into()));
    }
    server.trust("");
    status_when(&server, |status| status.deployment.standing == Standing::Trusted).await;
    assert_eq!(round(&workers, "w", &tensor(&[1.0])).await.unwrap().values(), [-1.0]);
}

/// A trust file that is a named pipe: each read of it waits for a writer, so that a test knows the stage of a
/// deployment.
struct Pipe(PathBuf);

impl Pipe {
    fn in_place_of_trust(server: &TestServer) -> Self {
        let path = server.authority.folder().join("publishers.toml");
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        Self(path)
    }

    /// Waits until the server reads the pipe, and gives it a file that trusts this publisher.
    async fn show(&self, comment: &str, publisher: &Publisher) {
        let key = publisher.public_key();
        let trust = format!("# {comment}\n[[publisher]]\nname = 'Example'\npublic_key = '{key}'\n[end]\n");
        let path = self.0.clone();
        in_time(tokio::task::spawn_blocking(move || fs::write(path, trust))).await.unwrap().unwrap();
    }
}

/// Compilation takes time between the first check and the last: rights and trust that end meanwhile have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_ends_while_a_component_is_compiled_is_noticed_before_it_takes_effect() {
    for submits in [false, true] {
        for (trust_ends, code, expected) in [
            (true, ErrorCode::Untrusted, "unknown-key"),
            (false, ErrorCode::Forbidden, if submits { "not-a-publisher" } else { "not-a-deployer" }),
        ] {
            let mut server = TestServer::start(Options { trust: ASKED, ..Options::new("meanwhile") });
            // The server reads changed rights on its own: a signal would make it read the trust file too.
            server.configure(|text| text.replace("[tls]", "[tls]\nreload_seconds = 0.01"));
            server.restart();
            let (deployer, publisher) = (server.client("deployer").await, server.client("publisher").await);
            let pipe = Pipe::in_place_of_trust(&server);
            let file = server.publisher.sign("sgd", "1.0.0");
            let asking = async {
                match submits {
                    true => deployer.submit(file).await.map(drop),
                    false => deployer.deploy(file, &DeployOptions::default()).await.map(drop),
                }
            };
            let ending = async {
                pipe.show("at first", &server.publisher).await;
                logged(&["allowed", "trust-reload", &pipe.0.display().to_string()]);
                if trust_ends {
                    return pipe.show("at last", &Publisher::new()).await;
                }
                let path = server.authority.folder().join("server.toml");
                let text = fs::read_to_string(&path).unwrap();
                let text = text.replace("['meanwhile-deployer', 'meanwhile-publisher']", "[]");
                let text = text.replace("deployers = ['meanwhile-deployer', ", "auditors = ['meanwhile-deployer', ");
                fs::write(path.with_extension("new"), text).unwrap();
                fs::rename(path.with_extension("new"), &path).unwrap();
                // Wait until the new rights are in force for another identity that they affect.
                while publisher.submissions().await.is_ok() {}
                pipe.show("at last", &server.publisher).await;
            };
            let (answer, ()) = in_time(async { tokio::join!(asking, ending) }).await;
            assert_eq!(reason(answer), (code, expected.into()), "submits: {submits}");
            let folder = server.authority.folder().join("state/components");
            assert_eq!(fs::read_dir(folder).map_or(0, Iterator::count), 0, "no component is stored");
        }
    }
}
