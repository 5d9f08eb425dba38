//! Rounds: what is summed, when, and how often.

use stepbox_client::{ErrorCode, Tensor};
use stepbox_tests::{Options, TestServer, in_time};

use crate::{bits, init, refused, round, tensor};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn weights_are_those_of_the_optimizer_on_the_mean_in_the_order_of_ranks() {
    let server = TestServer::start(Options { workers: 3, shard_threads: 2, ..Options::new("mean") });
    server.deploy("sgd", "1.0.0", &[("learning_rate", "0.1")]).await;
    let workers = server.workers(0..3).await;
    let mut expected: Vec<f32> = (0..150_000).map(|index| index as f32 * 0.37 - 1000.0).collect();
    init(&workers, "w", &tensor(&expected)).await;
    for number in 1..=3 {
        let gradients: Vec<Tensor> = (0..3)
            .map(|rank| {
                let value = |index| ((index * 7 + rank * 13 + number * 29) % 1009) as f32 * 0.123 - 60.0;
                tensor(&(0..expected.len()).map(value).collect::<Vec<_>>())
            })
            .collect();
        for rank in [2, 0, 1] {
            workers[rank].push("w", &gradients[rank]).await.unwrap();
        }
        for (index, weight) in expected.iter_mut().enumerate() {
            let [first, second, third] = [0, 1, 2].map(|rank: usize| gradients[rank].values()[index]);
            *weight -= 0.1 * ((first + second + third) / 3.0);
        }
        for worker in &workers {
            assert_eq!(bits(&worker.pull("w").await.unwrap()), bits(&tensor(&expected)), "round {number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_sum_is_taken_where_the_configuration_says_so() {
    let server = TestServer::start(Options { aggregation: "sum", ..Options::new("sum") });
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[10.0, 20.0])).await;
    assert_eq!(round(&workers, "w", &tensor(&[1.0, 2.0])).await.unwrap().values(), [8.0, 16.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_repeated_push_is_counted_once() {
    let server = TestServer::start(Options::new("repeated"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;

    assert!(!workers[0].push("w", &tensor(&[2.0])).await.unwrap().repeated);
    let again = workers[0].push("w", &tensor(&[100.0])).await.unwrap();
    assert!(again.repeated && again.round == 1);
    // Two pushes of one worker do not count as the pushes of two workers.
    assert_eq!(server.status().await.updates, 0);
    assert_eq!(workers[1].push_pull("w", &tensor(&[4.0])).await.unwrap().values(), [-3.0]);
    // The first worker does not know yet that the round is complete.
    assert!(workers[0].push("w", &tensor(&[100.0])).await.unwrap().repeated);
    assert_eq!(workers[0].pull("w").await.unwrap().values(), [-3.0]);
    assert_eq!(server.status().await.updates, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_comes_by_another_connection_goes_on_and_the_old_connection_ends() {
    let server = TestServer::start(Options::new("comes-back"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    workers[0].push("w", &tensor(&[2.0])).await.unwrap();

    let back = server.worker(0).await;
    stepbox_tests::logged(&["comes-back-worker-0", "replaced"]);
    assert!(!back.init("w", &tensor(&[7.0])).await.unwrap().created, "the key already exists");
    assert!(back.push("w", &tensor(&[100.0])).await.unwrap().repeated, "the push of the old connection counts");
    workers[1].push("w", &tensor(&[4.0])).await.unwrap();
    assert_eq!(back.pull("w").await.unwrap().values(), [-3.0]);
    in_time(workers[0].pull("w")).await.expect_err("the old connection is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_first_value_is_that_of_rank_0_and_the_others_wait_for_it() {
    let server = TestServer::start(Options::new("first-value"));
    let workers = server.workers([1, 0]).await;
    let (ignored, counts) = (tensor(&[7.0, 8.0]), tensor(&[1.0, 2.0]));
    let (second, first) = tokio::join!(workers[1].init("w", &ignored), workers[0].init("w", &counts));
    assert!(first.unwrap().created && !second.unwrap().created);
    assert_eq!(workers[1].pull("w").await.unwrap().values(), [1.0, 2.0]);
    let other_type = refused(workers[1].init("w", &tensor(&[1.0])).await);
    assert_eq!(other_type.0, ErrorCode::WrongShape);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn barriers_let_all_pass_together_and_a_restarted_worker_goes_on_counting() {
    let server = TestServer::start(Options::new("barrier"));
    let workers = server.workers(0..2).await;
    for _ in 0..3 {
        let (first, second) = tokio::join!(workers[0].barrier(), workers[1].barrier());
        first.and(second).unwrap();
    }
    let back = server.worker(1).await;
    let (first, second) = tokio::join!(workers[0].barrier(), back.barrier());
    first.and(second).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wait_ends_at_the_time_out_and_names_who_is_missing() {
    let server = TestServer::start(Options { workers: 3, round_timeout_seconds: 2.0, ..Options::new("late") });
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let first = server.worker(0).await;
    let connected = server.worker(1).await;
    first.init("w", &tensor(&[0.0])).await.unwrap();
    connected.init("w", &tensor(&[0.0])).await.unwrap();

    let (gradient, value) = (tensor(&[1.0]), tensor(&[0.0]));
    let (pulled, barrier, known) =
        tokio::join!(first.push_pull("w", &gradient), first.barrier(), connected.init("unknown", &value));
    let (code, message) = refused(pulled);
    assert_eq!(code, ErrorCode::TimedOut);
    assert!(message.contains("late-worker-1 (rank 1, connected)"), "{message}");
    assert!(message.contains("late-worker-2 (rank 2, has not registered)"), "{message}");
    assert!(!message.contains("late-worker-0"), "{message}");
    assert_eq!(refused(barrier).0, ErrorCode::TimedOut);
    let (code, message) = refused(known);
    assert_eq!(code, ErrorCode::TimedOut);
    assert!(message.contains("late-worker-0 (rank 0, connected)"), "{message}");

    // The timeout loses nothing: the round completes when the others have pushed.
    let last = server.worker(2).await;
    last.init("w", &tensor(&[0.0])).await.unwrap();
    for worker in [&connected, &last] {
        worker.push("w", &tensor(&[1.0])).await.unwrap();
    }
    assert_eq!(first.pull("w").await.unwrap().values(), [-1.0]);
}

/// Shampoo takes hundreds of milliseconds for a matrix of this size. Meanwhile the same connection pushes another key,
/// which is updated and pulled.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_key_is_pushed_updated_and_pulled_while_another_is_being_updated() {
    const SIDE: u64 = 512;
    let server = TestServer::start(Options { workers: 1, shard_threads: 2, ..Options::new("overlap") });
    server.deploy("shampoo", "1.0.0", &[]).await;
    let workers = server.workers(0..1).await;
    let matrix = |side: u64, scale: f32| {
        let values: Vec<f32> = (0..side * side).map(|index| ((index * 7919 % 1009) as f32 - 500.0) * scale).collect();
        Tensor::new([side, side], values).unwrap()
    };
    // A matrix that is visited whole is on one shard thread; consecutive keys are on different threads.
    init(&workers, "large", &matrix(SIDE, 1e-3)).await;
    init(&workers, "small", &matrix(8, 1e-3)).await;
    let version = async |key: &str| {
        let status = server.status().await;
        status.keys.iter().find(|status| status.key == key).unwrap().version
    };
    workers[0].push("large", &matrix(SIDE, 1e-4)).await.unwrap();
    in_time(workers[0].push_pull("small", &matrix(8, 1e-4))).await.unwrap();
    assert_eq!((version("small").await, version("large").await), (1, 0), "the large key is still being updated");
    in_time(workers[0].pull("large")).await.unwrap();
    assert_eq!(version("large").await, 1);
}
