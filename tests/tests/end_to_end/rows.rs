//! Rows: a sparse gradient has the same effect as the same gradient with zeros elsewhere.

use stepbox_client::{Client, ErrorCode, Rows, Tensor};
use stepbox_tests::{Options, RawPeer, TestServer};
use stepbox_wire::{ElementType, Request, TensorType};

use crate::{bits, init, refused, tensor};

/// More than one slice, with boundaries within rows.
const ROWS: u64 = 9001;
const COLUMNS: u64 = 17;

async fn scene(name: &'static str, optimizer: &str) -> (TestServer, Vec<Client>) {
    let server = TestServer::start(Options { workers: 3, shard_threads: 2, ..Options::new(name) });
    server.deploy(optimizer, "1.0.0", &[("learning_rate", "0.25")]).await;
    let workers = server.workers(0..3).await;
    (server, workers)
}

fn table(value: impl Fn(u64) -> f32) -> Tensor {
    Tensor::new([ROWS, COLUMNS], (0..ROWS * COLUMNS).map(value).collect::<Vec<_>>()).unwrap()
}

/// Row IDs in no particular order, some of them repeated, and their values.
fn touched(rank: u64, round: u64) -> Rows {
    let ids: Vec<u64> = (0..40).map(|index| (index * index * 131 + rank * 977 + round * 13) % ROWS / 3 * 3).collect();
    let ids = [ids.as_slice(), &ids[..7], &[0, ROWS - 1]].concat();
    let values =
        (0..ids.len() as u64 * COLUMNS).map(|index| ((index * 37 + rank * 11 + round) % 101) as f32 * 0.17 - 8.0);
    Rows::new(ids.clone(), Tensor::new([ids.len() as u64, COLUMNS], values.collect::<Vec<_>>()).unwrap()).unwrap()
}

/// The same gradient as a whole tensor, with repeated rows summed.
fn whole(rows: &Rows) -> Tensor {
    let mut dense = vec![0.0; (ROWS * COLUMNS) as usize];
    for (id, row) in rows.ids().iter().zip(rows.values().values().chunks(COLUMNS as usize)) {
        for (sum, value) in dense[(id * COLUMNS) as usize..].iter_mut().zip(row) {
            *sum += value;
        }
    }
    Tensor::new([ROWS, COLUMNS], dense).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_give_the_weights_that_whole_tensors_give() {
    for optimizer in ["sgd", "adamw"] {
        let (sparse_server, sparse) = scene("sparse", optimizer).await;
        let (dense_server, dense) = scene("dense", optimizer).await;
        for workers in [&sparse, &dense] {
            init(workers, "table", &table(|index| (index % 613) as f32 * 0.01)).await;
        }
        for round in 1..=4 {
            for rank in [2, 0, 1] {
                let rows = touched(rank as u64, round);
                let gradient = whole(&rows);
                match (rank as u64 + round) % 4 {
                    // Occasionally a worker has touched so many rows that it pushes the whole tensor, or it pushes no
                    // rows at all.
                    0 => sparse[rank].push("table", &gradient).await.unwrap(),
                    _ => sparse[rank].push_rows("table", &rows).await.unwrap(),
                };
                dense[rank].push("table", &gradient).await.unwrap();
            }
            let asked = [5, ROWS - 1, 0, 5, 7000];
            for (sparse, dense) in sparse.iter().zip(&dense) {
                let pulled = sparse.pull_rows("table", &asked).await.unwrap();
                assert_eq!(pulled.shape(), [asked.len() as u64, COLUMNS]);
                let weights = dense.pull("table").await.unwrap();
                let row = |id: &u64| weights.values()[(id * COLUMNS) as usize..][..COLUMNS as usize].to_vec();
                let expected = Tensor::new(pulled.shape(), asked.iter().flat_map(row).collect::<Vec<_>>()).unwrap();
                assert_eq!(bits(&pulled), bits(&expected), "{optimizer}, round {round}");
            }
        }
        assert_eq!(sparse_server.digest().await, dense_server.digest().await, "{optimizer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_without_rows_takes_part_and_pulls_wait_for_the_round() {
    let server = TestServer::start(Options::new("few-rows"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "table", &Tensor::new([3, 2], vec![0.0; 6]).unwrap()).await;
    let one = Rows::new([2], Tensor::new([1, 2], vec![2.0, 4.0]).unwrap()).unwrap();
    let none = Rows::new([], Tensor::new([0, 2], vec![]).unwrap()).unwrap();
    let (first, second) =
        tokio::join!(workers[0].push_pull_rows("table", &one, &[2, 1]), workers[1].push_pull_rows("table", &none, &[]));
    assert_eq!(
        first.unwrap().values(),
        [-1.0, -2.0, 0.0, 0.0],
        "the mean of this gradient and of the other worker's zeros"
    );
    assert_eq!(second.unwrap().shape(), [0, 2]);
    assert!(workers[0].push_rows("table", &one).await.is_ok_and(|push| push.round == 2 && !push.repeated));
    assert!(workers[0].push_rows("table", &one).await.is_ok_and(|push| push.round == 2 && push.repeated));
    let evaluation = workers[1].pull_evaluation("table").await.unwrap();
    assert_eq!(evaluation.values(), [0.0, 0.0, 0.0, 0.0, -1.0, -2.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_that_do_not_fit_are_refused_and_the_connection_goes_on() {
    let server =
        TestServer::start(Options { more: "[limits]\nrow_ids = 4\nbody_bytes = 150000", ..Options::new("bad-rows") });
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    init(&workers, "table", &Tensor::new([3, 2], vec![0.0; 6]).unwrap()).await;
    init(&workers, "bias", &tensor(&[0.0; 3])).await;
    init(&workers, "wide", &Tensor::new([1, 30_000], vec![0.0; 30_000]).unwrap()).await;
    let rows = |ids: &[u64], columns: u64, value: f32| {
        let values = vec![value; ids.len() * columns as usize];
        Rows::new(ids, Tensor::new([ids.len() as u64, columns], values).unwrap()).unwrap()
    };
    for (key, rows, code, expected) in [
        ("table", rows(&[0, 3], 2, 1.0), ErrorCode::RowOutOfRange, "has 3 rows, so none of id 3 (number 1 of the ids)"),
        ("table", rows(&[u64::MAX], 2, 1.0), ErrorCode::RowOutOfRange, "18446744073709551615"),
        ("table", rows(&[0], 3, 1.0), ErrorCode::WrongShape, "has shape [3, 2]; [1, 3] are no rows of it"),
        ("bias", rows(&[0], 1, 1.0), ErrorCode::WrongShape, "only tensors of two and more axes have rows"),
        ("table", rows(&[0, 1], 2, f32::NAN), ErrorCode::NotFinite, "element 0"),
        ("table", rows(&[1, 0, 1], 2, f32::MAX), ErrorCode::NotFinite, "row 1 of key `table` add up"),
        ("none", rows(&[0], 2, 1.0), ErrorCode::UnknownKey, "none"),
    ] {
        if key == "none" {
            assert_eq!(refused(workers[0].pull_rows(key, &[0]).await).0, code);
            continue;
        }
        let (found, message) = refused(workers[0].push_rows(key, &rows).await);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(expected), "{message}");
    }
    for (key, ids, code, expected) in [
        ("table", &[0, 4][..], ErrorCode::RowOutOfRange, "none of id 4"),
        ("bias", &[0], ErrorCode::WrongShape, "two and more axes"),
        ("table", &[0; 5], ErrorCode::Busy, "limits.row_ids"),
        ("wide", &[0; 2], ErrorCode::WrongLength, "limits.body_bytes"),
    ] {
        let (found, message) = refused(workers[0].pull_rows(key, ids).await);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(expected), "{message}");
    }
    // Another element type, and a number of IDs that differs from the announced one.
    let mut peer = RawPeer::registered(&server, 0).await;
    let values = TensorType { element: ElementType::F64, shape: vec![1, 2] };
    let push = Request::PushRows { key: "table".into(), round: 1, values, loss: None };
    peer.ask(9, &push, &[0; 24]).await;
    assert_eq!(peer.refusal().await.1.code, ErrorCode::WrongElementType);
    peer.ask(10, &Request::PullRows { key: "table".into(), version: 0, rows: 2 }, &[0; 8]).await;
    assert_eq!(peer.refusal().await.1.code, ErrorCode::WrongLength);
    drop(peer);

    // The space for waiting IDs is released, and none of the refused pushes has counted.
    let first = server.worker(0).await;
    for _ in 0..3 {
        assert_eq!(first.pull_rows("table", &[0, 1, 2, 0]).await.unwrap().values(), [0.0; 8]);
    }
    first.push_rows("table", &rows(&[1], 2, 2.0)).await.unwrap();
    workers[1].push_rows("table", &rows(&[1, 1], 2, 1.0)).await.unwrap();
    assert_eq!(first.pull("table").await.unwrap().values(), [0.0, 0.0, -2.0, -2.0, 0.0, 0.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_without_elements_are_none() {
    let server = TestServer::start(Options::new("hollow"));
    server.deploy("sgd", "1.0.0", &[("learning_rate", "1")]).await;
    let workers = server.workers(0..2).await;
    // It takes no memory, but its IDs would take an unlimited amount.
    init(&workers, "hollow", &Tensor::new([1 << 40, 0], vec![]).unwrap()).await;
    let rows = Rows::new([7], Tensor::new([1, 0], vec![]).unwrap()).unwrap();
    for outcome in
        [workers[0].push_rows("hollow", &rows).await.map(drop), workers[0].pull_rows("hollow", &[7]).await.map(drop)]
    {
        let (code, message) = refused(outcome);
        assert_eq!(code, ErrorCode::WrongShape, "{message}");
        assert!(message.contains("with elements"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ids_of_pushed_rows_are_counted_until_their_round_has_run() {
    for (optimizer, name) in [("sgd", "held-rows"), ("lazy-adam", "held-touched-rows")] {
        let server = TestServer::start(Options { more: "[limits]\nrow_ids = 4", ..Options::new(name) });
        server.deploy(optimizer, "1.0.0", &[("learning_rate", "1")]).await;
        let workers = server.workers(0..2).await;
        let keys = ["first", "second"];
        for key in keys {
            init(&workers, key, &Tensor::new([8, 1], vec![0.0; 8]).unwrap()).await;
        }
        let rows = |count: u64| {
            let values = Tensor::new([count, 1], vec![1.0; count as usize]).unwrap();
            Rows::new((0..count).collect::<Vec<_>>(), values).unwrap()
        };
        workers[0].push_rows(keys[0], &rows(3)).await.unwrap();
        let (code, message) = refused(workers[0].push_rows(keys[1], &rows(2)).await);
        assert_eq!(code, ErrorCode::Busy, "{message}");
        assert!(message.contains("limits.row_ids"), "{message}");
        // Another worker has a separate quota, and the end of the round releases both.
        workers[1].push_rows(keys[0], &rows(3)).await.unwrap();
        workers[0].pull_rows(keys[0], &[0]).await.unwrap();
        let pushed = async {
            while workers[0]
                .push_rows(keys[1], &rows(2))
                .await
                .is_err_and(|error| error.code() == Some(ErrorCode::Busy))
            {}
        };
        stepbox_tests::in_time(pushed).await;
    }
}
