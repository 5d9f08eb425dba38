//! Rights: granted individually, for some keys or all, and revoked while connections are open.

use stepbox_client::{Client, ClientError, ErrorCode, Tensor};
use stepbox_tests::{Options, RawPeer, TestServer, in_time, logged};
use stepbox_wire::{ElementType, Request, Response, TensorType, UNADDRESSED, encode_request};

use crate::{bits, init, refused, round, tensor};

/// Two workers that push and pull all of a model of three keys.
async fn trained(server: &TestServer) -> Vec<Client> {
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    for key in ["encoder.w", "encoder.b", "head"] {
        init(&workers, key, &value()).await;
        round(&workers, key, &value()).await.unwrap();
    }
    workers
}

fn value() -> Tensor {
    tensor(&[1.0, 2.0])
}

/// Repeats a request until the server, which reads its files with a short delay, answers as expected.
async fn changed<T>(
    mut ask: impl AsyncFnMut() -> Result<T, ClientError>,
    is_new: impl Fn(&Result<T, ClientError>) -> bool,
) -> Result<T, ClientError> {
    in_time(async {
        loop {
            let answer = ask().await;
            if is_new(&answer) {
                return answer;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_evaluator_pulls_some_keys_and_pushes_none() {
    let access = "[[access.grant]]\nidentities = ['evaluator-evaluator']\nrights = ['pull']\nkeys = ['encoder.*']";
    let server = TestServer::start(Options { access, ..Options::new("evaluator") });
    let workers = trained(&server).await;
    let evaluator = server.client("evaluator").await;
    let weights = workers[0].pull("encoder.w").await.unwrap();
    assert_eq!(bits(&evaluator.pull("encoder.w").await.unwrap()), bits(&weights));
    assert_eq!(bits(&evaluator.pull_evaluation("encoder.b").await.unwrap()), bits(&weights));
    for key in ["head", "encoder", "no such key"] {
        let (code, message) = refused(evaluator.pull(key).await);
        assert_eq!(code, ErrorCode::Forbidden, "the answer must not reveal whether the key exists: {message}");
        assert!(message.contains("[[access.grant]]"), "{message}");
    }
    assert_eq!(refused(evaluator.pull("encoder.none").await).0, ErrorCode::UnknownKey);
    assert_eq!(refused(evaluator.register().await).0, ErrorCode::Forbidden);
    assert_eq!(refused(evaluator.status(false).await).0, ErrorCode::Forbidden);
    let pushed = evaluator.push("encoder.w", &value()).await;
    assert!(matches!(refused(pushed).0, ErrorCode::Forbidden | ErrorCode::OutOfOrder), "the evaluator has no rank");
    logged(&["WARN", "evaluator-evaluator", "refused", "forbidden", "head"]);

    // The evaluator waits as workers do, and no round waits for the evaluator.
    let later = evaluator.pull_version("encoder.w", 2);
    let gradient = value();
    let (later, _) = tokio::join!(later, round(&workers, "encoder.w", &gradient));
    assert_eq!(later.unwrap().values(), [-1.0, -2.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_may_be_kept_from_some_keys() {
    let access = "worker_rights = ['push']\n\
                  [[access.grant]]\nidentities = ['kept-worker-0', 'kept-worker-1']\nrights = ['pull']\nkeys = ['head']\n\
                  [[access.grant]]\nidentities = ['kept-worker-0']\nrights = ['pull']\nkeys = ['encoder.?']";
    let server = TestServer::start(Options { access, ..Options::new("kept") });
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    for key in ["encoder.w", "head"] {
        init(&workers, key, &value()).await;
        for worker in &workers {
            worker.push(key, &value()).await.unwrap();
        }
        workers[0].pull(key).await.unwrap();
    }
    workers[1].pull("head").await.unwrap();
    assert_eq!(refused(workers[1].pull("encoder.w").await).0, ErrorCode::Forbidden);
    assert_eq!(refused(workers[1].pull_evaluation("encoder.w").await).0, ErrorCode::Forbidden);
    assert_eq!(refused(workers[1].pull_rows("encoder.w", &[0]).await).0, ErrorCode::Forbidden);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rights_change_on_connections_that_are_open() {
    let server = TestServer::start(Options::new("taken"));
    let workers = trained(&server).await;
    let (operator, deployer) = (server.client("operator").await, server.client("deployer").await);
    deployer.set_learning_rate(0.5).await.unwrap();

    server.configure(|text| {
        let text = text.replace("operators = ['taken-operator']", "operators = ['taken-carol']");
        text.replace("[access]", "[access]\ndenied = ['taken-deployer', 'taken-worker-1']\nworker_rights = ['push']")
    });
    let denied = changed(|| operator.status(false), Result::is_err).await;
    assert_eq!(refused(denied).0, ErrorCode::Forbidden);
    assert_eq!(refused(deployer.set_learning_rate(1.0).await).0, ErrorCode::Forbidden);
    assert_eq!(refused(workers[0].pull("head").await).0, ErrorCode::Forbidden);
    workers[0].push("encoder.b", &value()).await.expect("its other rights have not changed");
    let carol = server.client("carol").await;
    assert_eq!(carol.status(false).await.unwrap().warnings, [""; 0]);
    let again = Client::connect(&server.reach(&server.credentials("deployer"))).await.expect_err("denied");
    assert_eq!(again.code(), Some(ErrorCode::Forbidden));
    logged(&["INFO", "allowed", "rights"]);

    // An unusable file changes nothing, and the status reports it. The same applies to a file that changes more than
    // rights.
    server.configure(|text| format!("{text}\n[nonsense]"));
    let warned = changed(|| carol.status(false), |status| !status.as_ref().unwrap().warnings.is_empty()).await;
    assert!(warned.unwrap().warnings[0].contains("cannot be used"));
    workers[0].init("head", &value()).await.unwrap();
    server.configure(|text| {
        let text = text.replace("[nonsense]", "").replace("worker_rights = ['push']", "");
        text.replace("denied = ['taken-deployer', 'taken-worker-1']", "")
            .replace("shard_threads = 1", "shard_threads = 2")
    });
    changed(|| workers[0].pull("head"), Result::is_ok).await.expect("the right was restored");
    server.worker(1).await.pull("head").await.expect("the right was restored");
    let needs =
        changed(|| carol.status(false), |status| status.as_ref().unwrap().warnings[0].contains("restart")).await;
    assert_eq!(needs.unwrap().shard_threads, 1);
}

/// The round's timeout and the grace period are far away: a peer that waits for a dismissed worker gets an answer at
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_is_denied_loses_the_connection_and_nobody_waits_for_it() {
    let server = TestServer::start(Options::new("dismissed"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let mut denied = RawPeer::registered(&server, 1).await;
    let other = server.worker(0).await;
    other.init("w", &value()).await.unwrap();
    other.push("w", &value()).await.unwrap();
    let waiting = other.pull("w");
    let denying = async {
        server.configure(|text| text.replace("[access]", "[access]\ndenied = ['dismissed-worker-1']"));
        denied.refusal().await
    };
    let (woken, (id, failure)) = in_time(async { tokio::join!(waiting, denying) }).await;
    assert_eq!((id, failure.code), (UNADDRESSED, ErrorCode::Forbidden));
    assert!(failure.message.contains("any more"), "{}", failure.message);
    assert!(denied.receive().await.is_none(), "the connection is closed");
    let (code, message) = refused(woken);
    assert_eq!(code, ErrorCode::WorkerLost);
    assert!(message.contains("dismissed-worker-1 (rank 1) is lost"), "{message}");
    logged(&["WARN", "refused", "rights", "dismissed-worker-1", "forbidden"]);
}

const ROWS: TensorType = TensorType { element: ElementType::F32, shape: Vec::new() };

/// A peer can be slow to send a gradient that it may push now.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_gradient_counts_only_where_the_right_is_there_when_it_has_come() {
    let server = TestServer::start(Options::new("slow-push"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let mut slow = RawPeer::registered(&server, 1).await;
    let other = server.worker(0).await;
    let value = Tensor::new([2, 2], vec![0.0; 4]).unwrap();
    let shape = || TensorType { shape: vec![2, 2], ..ROWS };
    for (key, rows) in [("whole", false), ("rows", true)] {
        other.init(key, &value).await.unwrap();
        let request = match rows {
            false => Request::Push { key: key.into(), round: 1, tensor: shape(), loss: None },
            true => Request::PushRows { key: key.into(), round: 1, values: shape(), loss: None },
        };
        let body = vec![0; if rows { 32 } else { 16 }];
        slow.send(&encode_request(3, &request, body.len() as u64)).await.unwrap();
        slow.send(&body[..4]).await.unwrap();
        server.configure(|text| text.replace("[access]", "[access]\nworker_rights = ['pull']"));
        let ended = changed(|| other.push(key, &value), |answer| answer.is_err()).await;
        assert_eq!(refused(ended).0, ErrorCode::Forbidden);
        slow.send(&body[4..]).await.unwrap();
        let (id, failure) = slow.refusal().await;
        assert_eq!((id, failure.code), (3, ErrorCode::Forbidden), "{}", failure.message);
        server.configure(|text| text.replace("worker_rights = ['pull']\n", ""));
        changed(|| other.push(key, &value), Result::is_ok).await.unwrap();
    }
    assert!(server.status().await.keys.iter().all(|key| key.version == 0), "no round was complete");
}

/// More than the network buffers hold, so that the second answer has to wait for a peer that does not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn weights_that_wait_to_be_sent_are_not_sent_where_the_right_has_ended() {
    const ELEMENTS: usize = 16 << 20;
    let server = TestServer::start(Options::new("slow-pull"));
    let mut slow = RawPeer::registered(&server, 1).await;
    let other = server.worker(0).await;
    other.init("w", &tensor(&vec![0.0; ELEMENTS])).await.unwrap();
    for id in [3, 4] {
        slow.ask(id, &Request::Pull { key: "w".into(), version: 0, evaluation: false }, &[]).await;
    }
    slow.ask(5, &Request::Barrier { number: 1 }, &[]).await;
    other.barrier().await.expect("the peer's earlier requests are queued");
    server.configure(|text| text.replace("[access]", "[access]\nworker_rights = ['push']"));
    assert_eq!(refused(changed(|| other.pull("w"), Result::is_err).await).0, ErrorCode::Forbidden);
    assert!(matches!(slow.receive().await, Some((3, Response::Pulled { .. }))), "the answer was already being sent");
    let mut rest = [slow.receive().await.unwrap(), slow.receive().await.unwrap()];
    rest.sort_by_key(|(id, _)| *id);
    assert!(matches!(&rest[0], (4, Response::Failed(failure)) if failure.code == ErrorCode::Forbidden), "{rest:?}");
    assert!(matches!(&rest[1], (5, Response::BarrierPassed)), "{rest:?}");
    logged(&["WARN", "refused", "slow-pull-worker-1", "pull: ", "may not pull"]);
}
