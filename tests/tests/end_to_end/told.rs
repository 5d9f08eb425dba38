//! A refused peer gets the reason, and known problems are reported to those who can fix them.

use rcgen::{CertificateParams, DistinguishedName, DnType};
use stepbox_client::{Client, ClientError, ErrorCode};
use stepbox_tests::{Options, TestServer, in_time, logged};
use time::{Duration, OffsetDateTime};

use crate::{init, tensor};

/// Replaces the server's certificate.
fn replace_certificate(server: &TestServer, change: impl FnOnce(&mut CertificateParams)) {
    server.authority.issue_with("server", change);
}

async fn refused_by_client(server: &TestServer, role: &str) -> String {
    let error = Client::connect(&server.reach(&server.credentials(role)))
        .await
        .expect_err("the server's certificate is invalid");
    assert!(matches!(error, ClientError::Handshake { .. }), "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_servers_certificate_that_clients_refuse_is_told_at_the_start_and_to_clients_as_the_servers() {
    let mut server = TestServer::start(Options::new("refused-server"));
    let folder = server.authority.folder().display().to_string();

    replace_certificate(&server, |params| params.not_after = OffsetDateTime::now_utc() - Duration::days(2));
    server.restart();
    logged(&["WARN", &folder, "the server's certificate", "has expired"]);
    let error = refused_by_client(&server, "operator").await;
    assert!(error.contains("the server's certificate expired at") && error.contains("must renew it"), "{error}");

    replace_certificate(&server, |params| params.not_before = OffsetDateTime::now_utc() + Duration::days(2));
    server.restart();
    logged(&["WARN", &folder, "the server's certificate", "is not valid before"]);
    let error = refused_by_client(&server, "operator").await;
    assert!(error.contains("the server's certificate is not valid before"), "{error}");

    replace_certificate(&server, |params| params.subject_alt_names.clear());
    server.restart();
    logged(&["WARN", &folder, "the server's certificate", "names no host"]);
    let error = refused_by_client(&server, "operator").await;
    assert!(error.contains("the server's certificate is for no host name"), "{error}");

    // A certificate that is valid for several days: clients connect, and the status and the log report when it expires.
    replace_certificate(&server, |params| params.not_after = OffsetDateTime::now_utc() + Duration::hours(80));
    server.restart();
    logged(&["WARN", &folder, "the server's certificate", "in 3 days"]);
    let warnings = server.client("operator").await.status(false).await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("in 3 days")), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_whose_certificate_is_refused_is_told_that_it_is_its_own() {
    let server = TestServer::start(Options::new("refused-client"));
    let told = async |change: fn(&mut CertificateParams)| {
        let credentials = server.authority.issue_with(&server.identity("operator"), change);
        let error =
            Client::connect(&server.reach(&credentials)).await.expect_err("the client's certificate is invalid");
        assert!(matches!(error, ClientError::Handshake { .. }), "{error}");
        error.to_string()
    };
    let error = told(|params| params.not_after = OffsetDateTime::now_utc() - Duration::days(1)).await;
    assert!(error.contains("this client's certificate") && error.contains("expired at"), "{error}");
    // The alert is the same, but the advice differs.
    let error = told(|params| params.not_before = OffsetDateTime::now_utc() + Duration::days(1)).await;
    assert!(error.contains("this client's certificate") && error.contains("is not valid before"), "{error}");
    assert!(!error.contains("expired at"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_that_names_nobody_is_refused_with_the_reason() {
    let server = TestServer::start(Options::new("nobody"));
    for (name, expected) in [(None, "0 common names"), (Some("nobody-worker-0 "), "blank")] {
        let nobody = server.authority.issue_with("nobody", |params| {
            params.distinguished_name = DistinguishedName::new();
            match name {
                Some(name) => params.distinguished_name.push(DnType::CommonName, name),
                None => params.distinguished_name.push(DnType::OrganizationName, "Example"),
            }
        });
        let refused = Client::connect(&server.reach(&nobody)).await.expect_err("nobody");
        assert_eq!(refused.code(), Some(ErrorCode::NoIdentity), "{refused}");
        assert!(refused.to_string().contains(expected), "{refused}");
        logged(&["WARN", "names nobody", expected]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_is_replaced_is_told_so_and_what_to_do() {
    let server = TestServer::start(Options::new("told-replaced"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    workers[0].push("w", &tensor(&[1.0])).await.unwrap();
    // It waits for a round that the other worker does not complete.
    let (waiting, _other) = in_time(async { tokio::join!(workers[0].pull("w"), server.worker(0)) }).await;
    for error in [waiting.expect_err("replaced"), workers[0].pull("w").await.expect_err("replaced")] {
        assert_eq!(error.code(), Some(ErrorCode::Replaced), "{error}");
        let message = error.to_string();
        assert!(
            message.contains("told-replaced-worker-0") && message.contains("a certificate and an entry"),
            "{message}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pull_without_an_optimizer_blames_no_worker() {
    let server = TestServer::start(Options { round_timeout_seconds: 0.2, ..Options::new("undeployed") });
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    let error = workers[0].pull_version("w", 1).await.expect_err("no optimizer can compute this version");
    assert_eq!(error.code(), Some(ErrorCode::NoOptimizer), "{error}");
    let message = error.to_string();
    assert!(message.contains("stepbox deploy") && !message.contains("worker-1"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_learning_rate_that_is_nothing_as_f32_is_refused_as_it_was_given() {
    let server = TestServer::start(Options::new("vanishing"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "0.1")]).await;
    let scheduler = server.client("scheduler").await;
    for (rate, words) in [(1e-50, "0 as the f32"), (1e50, "infinite as the f32")] {
        let error = scheduler.set_learning_rate(rate).await.expect_err("the rate is not an f32");
        assert_eq!(error.code(), Some(ErrorCode::Hyperparameter), "{error}");
        let message = error.to_string();
        assert!(message.contains(words) && message.contains("learning_rate = "), "{message}");
    }
    assert!(scheduler.set_learning_rate(1e-3).await.is_ok());
}
