//! Rounds that fail because of one worker's gradient: whom the error names, and what the operator can do about it.

use stepbox_client::{Client, ErrorCode, Tensor};
use stepbox_tests::{Options, TestServer, logged};

use crate::{init, refused, round, tensor};

/// A value whose square in AdamW is infinite.
const TOO_LARGE: f32 = 3e38;

async fn scene(options: Options) -> (TestServer, Vec<Client>) {
    let server = TestServer::start(Options { workers: 3, ..options });
    server.deploy("adamw", "1.0.0", &[]).await;
    let workers = server.workers(0..3).await;
    init(&workers, "w", &tensor(&[0.5; 4])).await;
    (server, workers)
}

fn large() -> Tensor {
    tensor(&[0.25, TOO_LARGE, -1.0, 0.0])
}

fn small() -> Tensor {
    tensor(&[0.25, -2.0, 1.0, 0.0])
}

/// Runs a round with a large gradient of the last worker. Returns the error that the first worker receives.
async fn failed_round(workers: &[Client]) -> (ErrorCode, String) {
    for (worker, gradient) in workers.iter().zip([small(), small(), large()]) {
        worker.push("w", &gradient).await.unwrap();
    }
    refused(workers[0].pull("w").await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_round_that_fails_by_one_workers_gradient_names_the_worker_everywhere() {
    let (server, workers) = scene(Options::new("blamed")).await;
    for _ in 0..2 {
        let (code, message) = failed_round(&workers).await;
        assert_eq!(code, ErrorCode::OptimizerFailed);
        for part in ["blamed-worker-2 (rank 2), up to 3e38", "others were up to 2e0", "not the optimizer"] {
            assert!(message.contains(part), "{message}");
        }
    }
    logged(&["ERROR", "a round has failed", "blamed-worker-2 (rank 2), up to 3e38"]);
    let warnings = server.status().await.warnings;
    let expected = "2 rounds in a row have failed by gradients of blamed-worker-2 (rank 2)";
    assert!(warnings.iter().any(|warning| warning.starts_with(expected)), "{warnings:?}");
    round(&workers, "w", &small()).await.expect("an honest round");
    assert!(server.status().await.warnings.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_gradient_above_the_operators_bound_is_refused_when_it_comes() {
    let (_server, workers) = scene(Options { job: "max_gradient_magnitude = 1e6", ..Options::new("bounded") }).await;
    let (code, message) = refused(workers[2].push("w", &large()).await);
    assert_eq!(code, ErrorCode::GradientTooLarge);
    assert!(message.contains("3e38") && message.contains("job.max_gradient_magnitude"), "{message}");
    // The refusal loses nothing.
    round(&workers, "w", &small()).await.expect("the worker pushes another gradient for the same round");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_fails_rounds_again_and_again_is_refused_where_the_operator_wants_it() {
    let (server, workers) = scene(Options { job: "refuse_after_failures = 2", ..Options::new("refused") }).await;
    failed_round(&workers).await;
    failed_round(&workers).await;
    let (code, message) = refused(workers[2].push("w", &small()).await);
    assert_eq!(code, ErrorCode::Forbidden);
    assert!(message.contains("job.refuse_after_failures"), "{message}");
    // No peer waits for that worker's gradient in vain.
    workers[0].push("w", &small()).await.unwrap();
    let (code, message) = refused(workers[0].pull("w").await);
    assert_eq!(code, ErrorCode::WorkerLost);
    assert!(message.contains("refused-worker-2 (rank 2)"), "{message}");
    // Another optimizer may be able to process gradients that this one cannot.
    server.deploy("sgd", "1.0.0", &[("learning_rate", "0.1")]).await;
    for worker in &workers[1..] {
        worker.push("w", &small()).await.unwrap();
    }
    workers[0].pull("w").await.expect("the round is complete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_mean_that_fits_is_right_where_the_sum_does_not_fit() {
    let server = TestServer::start(Options::new("fits"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0, 0.0])).await;
    let weights = round(&workers, "w", &tensor(&[TOO_LARGE, 1.0])).await.expect("the mean is finite");
    assert_eq!(weights.values(), [-TOO_LARGE, -1.0]);
}
