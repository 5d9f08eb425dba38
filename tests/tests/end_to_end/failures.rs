//! Optimizers that fail during training: the key does not change by a bit, and training can continue.

use stepbox_client::ErrorCode;
use stepbox_tests::{Options, TestServer, logged};

use crate::{bits, init, refused, round, tensor};

/// The hostile guest `slow-poison` behaves for nine rounds; then it traps at the first parameter above this value.
const POISONED: f32 = 2e9;
const GOOD_ROUNDS: usize = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_failed_round_leaves_the_key_as_it_was_and_can_be_run_again() {
    let server = TestServer::start(Options { shard_threads: 2, ..Options::new("poisoned") });
    server.deploy("hostile/slow-poison", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    // The trap is in the last slice: the steps of all other slices have succeeded and must be rolled back.
    let mut values = vec![1.0; 150_000];
    values[149_000] = POISONED;
    init(&workers, "poisoned", &tensor(&values)).await;
    init(&workers, "sound", &tensor(&[1.0; 10])).await;
    let (gradient, small) = (tensor(&[0.25; 150_000]), tensor(&[0.25; 10]));
    let mut weights = tensor(&values);
    for _ in 0..GOOD_ROUNDS {
        weights = round(&workers, "poisoned", &gradient).await.unwrap();
        round(&workers, "sound", &small).await.unwrap();
    }
    let before = server.digest().await;

    for attempt in 1..=2 {
        for worker in &workers {
            worker.push("poisoned", &gradient).await.unwrap();
        }
        for worker in &workers {
            let (code, message) = refused(worker.pull("poisoned").await);
            assert_eq!(code, ErrorCode::OptimizerFailed, "attempt {attempt}");
            assert!(message.contains("slow-poison 1.0.0"), "{message}");
            assert!(message.contains("round 10"), "{message}");
            assert_eq!(bits(&worker.pull_version("poisoned", 0).await.unwrap()), bits(&weights));
        }
        assert_eq!(server.digest().await, before, "attempt {attempt}");
    }
    logged(&["ERROR", "poisoned", "a round has failed"]);

    // Other keys continue to train, in the same instances.
    round(&workers, "sound", &small).await.unwrap();

    // Another optimizer takes the key over in its current state, although other keys are ahead of it.
    let deployment = server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    assert_eq!(deployment.from_round, 11);
    let expected: Vec<f32> = weights.values().iter().map(|weight| weight - 0.25).collect();
    assert_eq!(bits(&round(&workers, "poisoned", &gradient).await.unwrap()), bits(&tensor(&expected)));
    round(&workers, "sound", &small).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_pushed_before_a_failure_and_pulls_after_it_does_not_wait_for_ever() {
    let server = TestServer::start(Options::new("told"));
    server.deploy("hostile/slow-poison", "1.0.0", &[]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[POISONED])).await;
    let gradient = tensor(&[0.0]);
    for _ in 0..GOOD_ROUNDS {
        round(&workers, "w", &gradient).await.unwrap();
    }
    for worker in &workers {
        worker.push("w", &gradient).await.unwrap();
    }
    assert_eq!(refused(workers[0].pull("w").await).0, ErrorCode::OptimizerFailed);
    // The first worker pushes again at once; the second does not know of the failure yet.
    assert!(!workers[0].push("w", &gradient).await.unwrap().repeated);
    assert_eq!(refused(workers[1].pull("w").await).0, ErrorCode::OptimizerFailed);
}

/// The hostile guest `trespasser` behaves for four rounds; then each step writes into another key of the same instance.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_an_optimizer_writes_into_another_key_is_never_published_and_training_goes_on() {
    let server = TestServer::start(Options { shard_threads: 1, ..Options::new("trespass") });
    server.deploy("hostile/trespasser", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    let gradient = tensor(&[0.25; 5000]);
    for key in ["first", "second"] {
        init(&workers, key, &tensor(&[1.0; 5000])).await;
    }
    for _ in 0..4 {
        for key in ["first", "second"] {
            round(&workers, key, &gradient).await.unwrap();
        }
    }
    // The first key's step writes into the second key, for which there has been no request.
    assert_eq!(bits(&round(&workers, "first", &gradient).await.unwrap()), bits(&tensor(&[-0.25; 5000])));
    for worker in &workers {
        worker.push("second", &gradient).await.unwrap();
    }
    for worker in &workers {
        let (code, message) = refused(worker.pull("second").await);
        assert_eq!(code, ErrorCode::OptimizerFailed);
        for named in ["trespasser 1.0.0", "the parameters of key `second`", "outside the key's own steps", "chunk 1"] {
            assert!(message.contains(named), "{message}");
        }
        assert_eq!(bits(&worker.pull_version("second", 0).await.unwrap()), bits(&tensor(&[0.0; 5000])));
    }
    // The second key is restored, and continues with the published weights.
    assert_eq!(bits(&round(&workers, "second", &gradient).await.unwrap()), bits(&tensor(&[-0.25; 5000])));
    logged(&["WARN", "second", "went back to those published"]);

    // The first key's next step tampers again. Another optimizer takes both keys over with the published weights.
    for key in ["second", "first"] {
        assert_eq!(bits(&round(&workers, key, &gradient).await.unwrap()), bits(&tensor(&[-0.5; 5000])));
    }
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    for key in ["first", "second"] {
        assert_eq!(bits(&round(&workers, key, &gradient).await.unwrap()), bits(&tensor(&[-0.75; 5000])));
    }
    logged(&["WARN", "second", "moves with the weights published"]);
}
