//! Rights: given one by one, for some keys or all, and taken away while connections last.

use stepbox_client::{Client, ClientError, ErrorCode, Tensor};
use stepbox_tests::{Options, TestServer, in_time, logged};

use crate::{bits, init, refused, round, tensor};

/// Two workers who push and pull all of a model of three keys.
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

/// Asks until the server, which reads its files in a moment, answers otherwise.
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
        assert_eq!(code, ErrorCode::Forbidden, "and not whether there is such a key: {message}");
        assert!(message.contains("[[access.grant]]"), "{message}");
    }
    assert_eq!(refused(evaluator.pull("encoder.none").await).0, ErrorCode::UnknownKey);
    assert_eq!(refused(evaluator.register().await).0, ErrorCode::Forbidden);
    assert_eq!(refused(evaluator.status(false).await).0, ErrorCode::Forbidden);
    let pushed = evaluator.push("encoder.w", &value()).await;
    assert!(matches!(refused(pushed).0, ErrorCode::Forbidden | ErrorCode::OutOfOrder), "it has no rank");
    logged(&["WARN", "evaluator-evaluator", "refused", "forbidden", "head"]);

    // It waits as workers do, and no round waits for it.
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
        text.replace("[access]", "[access]\ndenied = ['taken-deployer', 'taken-worker-1']")
    });
    let denied = changed(|| operator.status(false), Result::is_err).await;
    assert_eq!(refused(denied).0, ErrorCode::Forbidden);
    assert_eq!(refused(deployer.set_learning_rate(1.0).await).0, ErrorCode::Forbidden);
    for outcome in [workers[1].push("head", &value()).await.map(drop), workers[1].barrier().await] {
        let (code, message) = refused(outcome);
        assert_eq!(code, ErrorCode::Forbidden);
        assert!(message.contains("any more"), "{message}");
    }
    assert_eq!(refused(workers[1].pull("head").await).0, ErrorCode::Forbidden);
    workers[0].pull("head").await.expect("the others' rights are as they were");
    let carol = server.client("carol").await;
    assert_eq!(carol.status(false).await.unwrap().warnings, [""; 0]);
    let again = Client::connect(&server.reach(&server.credentials("deployer"))).await.expect_err("denied");
    assert_eq!(again.code(), Some(ErrorCode::Forbidden));
    logged(&["INFO", "allowed", "rights"]);

    // A file that cannot be used changes nothing, and the status says so; so does one with more than rights in it.
    server.configure(|text| format!("{text}\n[nonsense]"));
    let warned = changed(|| carol.status(false), |status| !status.as_ref().unwrap().warnings.is_empty()).await;
    assert!(warned.unwrap().warnings[0].contains("cannot be used"));
    workers[0].pull("head").await.unwrap();
    server.configure(|text| {
        let text = text.replace("[nonsense]", "");
        text.replace("denied = ['taken-deployer', 'taken-worker-1']", "")
            .replace("shard_threads = 1", "shard_threads = 2")
    });
    changed(|| workers[1].pull("head"), Result::is_ok).await.expect("what was given back");
    let needs =
        changed(|| carol.status(false), |status| status.as_ref().unwrap().warnings[0].contains("restart")).await;
    assert_eq!(needs.unwrap().shard_threads, 1);
}
