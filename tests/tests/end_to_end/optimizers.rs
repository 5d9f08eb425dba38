//! Optimizers that need more than one pass: on any number of threads, over keys that are combined, with rounds that
//! fail halfway, with evaluation weights, with rows.

use stepbox_client::{Client, ErrorCode, Rows, Tensor};
use stepbox_tests::{Options, TestServer, in_time};

use crate::{bits, init, refused, tensor};

/// A matrix whose sides do not end at chunks, large enough to be spread over three threads; a vector; a small matrix.
const KEYS: [(&str, &[u64]); 3] = [("layer.weight", &[331, 607]), ("layer.bias", &[5003]), ("head.weight", &[40, 24])];

const ROUNDS: u64 = 3;

fn made_up(shape: &[u64], seed: u64) -> Tensor {
    let mut state = seed << 20 ^ shape.len() as u64;
    let values = (0..shape.iter().product()).map(|_: u64| {
        // Knuth's MMIX generator; its upper bits are good enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    Tensor::new(shape, values.collect::<Vec<_>>()).unwrap()
}

/// Runs a round. All keys are pushed before any is pulled, as optimizers that combine keys require.
async fn round(worker: &Client, number: u64) {
    for (index, (key, shape)) in KEYS.iter().enumerate() {
        worker.push(key, &made_up(shape, number * 64 + index as u64)).await.unwrap();
    }
    for (key, _) in KEYS {
        worker.pull(key).await.unwrap();
    }
}

/// Names of the shipped optimizers: the folders in `optimizers/`.
fn shipped() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../optimizers");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().join("Cargo.toml").exists());
    let mut names: Vec<_> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Trains with one optimizer after another. Each takes over the weights of the preceding one, with different cuts if it
/// needs them. Returns the digest of the weights after each optimizer.
async fn train_with_all(shard_threads: usize) -> Vec<(String, String)> {
    let server = TestServer::start(Options { workers: 1, shard_threads, ..Options::new("all-optimizers") });
    let worker = server.worker(0).await;
    let mut digests = Vec::new();
    let mut number = 0;
    for name in shipped() {
        server.deploy(&name, "1.0.0", &[]).await;
        if digests.is_empty() {
            for (index, (key, shape)) in KEYS.iter().enumerate() {
                worker.init(key, &made_up(shape, 7 + index as u64)).await.unwrap();
            }
        }
        for _ in 0..ROUNDS {
            number += 1;
            round(&worker, number).await;
        }
        digests.push((name, server.digest().await));
    }
    digests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_shipped_optimizer_trains_to_the_same_bits_on_one_two_and_three_shard_threads() {
    in_time(async {
        let one = train_with_all(1).await;
        assert_eq!(one.len(), shipped().len());
        assert!(one.windows(2).all(|pair| pair[0].1 != pair[1].1), "each optimizer moves the weights");
        assert_eq!(train_with_all(2).await, one);
        assert_eq!(train_with_all(3).await, one);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_failure_in_a_later_phase_takes_the_whole_round_back() {
    let server = TestServer::start(Options { workers: 1, shard_threads: 2, ..Options::new("late-trap") });
    server.deploy("hostile/late-trap", "1.0.0", &[("learning_rate", "0.5")]).await;
    let worker = server.worker(0).await;
    // Large enough for a slice on each thread; only the last slice contains the value at which the guest traps.
    let elements = 1 << 17;
    let mut values = vec![1.0; elements];
    values[elements - 1] = 2e9;
    let before = tensor(&values);
    worker.init("w", &before).await.unwrap();
    let digest = server.digest().await;

    let (code, message) = refused(worker.push_pull("w", &tensor(&vec![1.0; elements])).await);
    assert_eq!(code, ErrorCode::OptimizerFailed, "{message}");
    assert!(message.contains("trap in") && message.contains("the weights are those of version 0"), "{message}");
    assert_eq!(server.digest().await, digest);

    // Another optimizer finds the weights unchanged bit for bit, and the round open.
    server.deploy("sgd", "1.0.0", &[("learning_rate", "0.5")]).await;
    let after = worker.push_pull("w", &tensor(&vec![1.0; elements])).await.unwrap();
    assert_eq!(bits(&after), bits(&tensor(&values.iter().map(|value| value - 0.5).collect::<Vec<_>>())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_that_an_optimizer_combines_wait_for_each_other_and_say_for_whom() {
    let options = Options { workers: 1, shard_threads: 2, round_timeout_seconds: 0.3, ..Options::new("combined") };
    let server = TestServer::start(options);
    server.deploy("prodigy", "1.0.0", &[]).await;
    let worker = server.worker(0).await;
    let gradient = tensor(&[0.5; 100]);
    for key in ["a", "b"] {
        worker.init(key, &tensor(&[1.0; 100])).await.unwrap();
    }
    // Pulled before the other key is pushed: the server cannot complete such a round.
    let (code, message) = refused(worker.push_pull("a", &gradient).await);
    assert!(matches!(code, ErrorCode::OptimizerFailed | ErrorCode::TimedOut), "{code}: {message}");
    assert!(message.contains("`b` (not pushed by") && message.contains("rank 0"), "the first answer says: {message}");
    // With both keys, training continues from the same state.
    in_time(async {
        loop {
            // The failure of the first attempt may still be in transit.
            let pushed = worker.push("a", &gradient).await.and(worker.push("b", &gradient).await);
            if pushed.is_ok() && worker.pull("a").await.is_ok() && worker.pull("b").await.is_ok() {
                break;
            }
        }
    })
    .await;
    let (a, b) = (worker.pull("a").await.unwrap(), worker.pull("b").await.unwrap());
    assert_eq!(bits(&a), bits(&b), "same values, same gradients, one distance for the whole model");
    assert_ne!(bits(&a), bits(&tensor(&[1.0; 100])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn evaluation_weights_are_computed_and_leave_no_trace() {
    let server = TestServer::start(Options { workers: 1, shard_threads: 2, ..Options::new("evaluation") });
    server.deploy("schedule-free-adamw", "1.0.0", &[("learning_rate", "0.1")]).await;
    let worker = server.worker(0).await;
    let shape = [1 << 17];
    worker.init("w", &made_up(&shape, 1)).await.unwrap();
    let first = worker.pull_evaluation("w").await.unwrap();
    assert_eq!(
        bits(&first),
        bits(&made_up(&shape, 1)),
        "before the first round the evaluation weights are the parameters"
    );
    let mut training = first;
    for number in 2..8 {
        training = worker.push_pull("w", &made_up(&shape, number)).await.unwrap();
    }
    let digest = server.digest().await;
    let evaluation = worker.pull_evaluation("w").await.unwrap();
    assert_ne!(bits(&evaluation), bits(&training));
    assert_eq!(
        bits(&evaluation),
        bits(&worker.pull_evaluation("w").await.unwrap()),
        "a second request has the same answer"
    );
    assert_eq!(server.digest().await, digest);
    assert_eq!(bits(&worker.pull("w").await.unwrap()), bits(&training));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_that_nobody_touches_stay_and_the_others_train_as_if_alone() {
    const COLUMNS: u64 = 17;
    const ROWS: u64 = 20_000;
    let server = TestServer::start(Options { shard_threads: 3, ..Options::new("lazy") });
    server.deploy("lazy-adam", "1.0.0", &[("learning_rate", "0.1")]).await;
    let workers = server.workers(0..2).await;
    let table = made_up(&[ROWS, COLUMNS], 3);
    init(&workers, "table", &table).await;
    let rows = |ids: &[u64], value: f32| {
        let values = vec![value; ids.len() * COLUMNS as usize];
        Rows::new(ids, Tensor::new([ids.len() as u64, COLUMNS], values).unwrap()).unwrap()
    };
    for _ in 0..3 {
        // Row 7 by both workers, row 19999 twice by the second: the parts are added.
        workers[0].push_rows("table", &rows(&[7, 3], 1.0)).await.unwrap();
        workers[1].push_rows("table", &rows(&[19_999, 7, 19_999], -0.25)).await.unwrap();
        for worker in &workers {
            worker.pull_rows("table", &[7]).await.unwrap();
        }
    }
    let touched = [3, 7, 19_999];
    let whole = workers[0].pull("table").await.unwrap();
    for row in 0..ROWS {
        let at = |tensor: &Tensor| tensor.values()[(row * COLUMNS) as usize..][..COLUMNS as usize].to_vec();
        assert_eq!(at(&whole) != at(&table), touched.contains(&row), "row {row}");
    }
    let pulled = workers[1].pull_rows("table", &[19_999, 3, 19_999]).await.unwrap();
    for (position, row) in [19_999_u64, 3, 19_999].into_iter().enumerate() {
        let expected = &whole.values()[(row * COLUMNS) as usize..][..COLUMNS as usize];
        assert_eq!(&pulled.values()[position * COLUMNS as usize..][..COLUMNS as usize], expected);
    }
    // Adam's first steps are as large as the learning rate, independent of the gradient's size, and have the opposite
    // sign.
    let moved = |row: u64| whole.values()[(row * COLUMNS) as usize] - table.values()[(row * COLUMNS) as usize];
    assert!((moved(3) + 0.3).abs() < 1e-4 && (moved(7) + 0.3).abs() < 1e-4, "{} {}", moved(3), moved(7));
    assert!((moved(19_999) - 0.3).abs() < 1e-4, "{}", moved(19_999));

    // An optimizer that visits all elements takes over, and finds every row.
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    for worker in &workers {
        worker.push_rows("table", &rows(&[0], 0.0)).await.unwrap();
    }
    assert_eq!(bits(&workers[0].pull("table").await.unwrap()), bits(&whole));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_that_cannot_go_through_their_rounds_together_are_refused_where_that_is_decided() {
    let server = TestServer::start(Options { workers: 1, ..Options::new("apart") });
    server.deploy("prodigy", "1.0.0", &[]).await;
    let worker = server.worker(0).await;
    worker.init("early", &tensor(&[1.0; 10])).await.unwrap();
    for _ in 0..3 {
        worker.push_pull("early", &tensor(&[0.5; 10])).await.unwrap();
    }
    let (code, message) = refused(worker.init("late", &tensor(&[1.0; 10])).await);
    assert_eq!(code, ErrorCode::OutOfOrder);
    assert!(message.contains("`late` comes too late") && message.contains("`early`"), "{message}");

    // Optimizers that treat each key independently accept it; optimizers that combine keys can no longer be deployed.
    server.deploy("sgd", "1.0.0", &[]).await;
    worker.init("late", &tensor(&[1.0; 10])).await.unwrap();
    worker.push_pull("late", &tensor(&[0.5; 10])).await.unwrap();
    let (code, message) = refused(server.deploy_with("prodigy", "1.0.1", &Default::default()).await);
    assert_eq!(code, ErrorCode::Busy);
    assert!(message.contains("`early` at 3, `late` at 1"), "{message}");
    worker.push_pull("early", &tensor(&[0.5; 10])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tensors_without_elements_go_through_their_rounds_whatever_their_shape() {
    for optimizer in ["lazy-adam", "prodigy", "adafactor", "shampoo", "adamw"] {
        let server = TestServer::start(Options { workers: 1, ..Options::new("empty") });
        server.deploy(optimizer, "1.0.0", &[]).await;
        let worker = server.worker(0).await;
        let shape = [1 << 50, 0];
        let empty = Tensor::new(shape, Vec::new()).unwrap();
        for key in [("empty", &empty), ("full", &tensor(&[1.0; 10]))] {
            worker.init(key.0, key.1).await.unwrap();
        }
        for _ in 0..2 {
            worker.push("empty", &empty).await.unwrap();
            worker.push("full", &tensor(&[0.5; 10])).await.unwrap();
            assert!(worker.pull("empty").await.unwrap().values().is_empty());
            worker.pull("full").await.unwrap();
        }
    }
}
