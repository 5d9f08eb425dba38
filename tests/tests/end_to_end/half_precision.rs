//! Gradients in half precision have the same effect as their rounded values in f32.

use stepbox_client::{Client, ClientError, ErrorCode, HalfTensor, Rows, Tensor};
use stepbox_tests::{Options, RawPeer, TestServer, logged};
use stepbox_wire::{ElementType, Request, Response, TensorType};

use crate::{bits, init, refused, tensor};

/// More than one slice, and not a multiple of any block size.
const ELEMENTS: usize = 150_001;

async fn scene(options: Options, optimizer: &str) -> (TestServer, Vec<Client>) {
    let workers = options.workers;
    let server = TestServer::start(options);
    server.deploy(optimizer, "1.0.0", &[("learning_rate", "0.25")]).await;
    let workers = server.workers(0..workers).await;
    (server, workers)
}

/// A gradient with magnitudes from below the smallest f16 up to thousands.
fn gradient(rank: usize, round: usize) -> Tensor {
    let value = |index: usize| {
        let number = (index * 37 + rank * 11 + round * 5) % 1009;
        (number as f32 * 0.123 - 60.0) * 2.0_f32.powi((index % 31) as i32 - 25)
    };
    tensor(&(0..ELEMENTS).map(value).collect::<Vec<_>>())
}

/// The tensor as bf16 for even numbers, and as f16 for odd numbers.
fn halved(tensor: &Tensor, number: usize) -> HalfTensor {
    if number.is_multiple_of(2) { tensor.to_bf16().unwrap() } else { tensor.to_f16().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn halves_give_the_weights_that_the_rounded_values_give() {
    for optimizer in ["sgd", "adamw", "lamb"] {
        let options = |name| Options { workers: 3, shard_threads: 2, ..Options::new(name) };
        let (half_server, halves) = scene(options("halves"), optimizer).await;
        let (whole_server, wholes) = scene(options("wholes"), optimizer).await;
        for workers in [&halves, &wholes] {
            init(workers, "w", &tensor(&vec![0.5; ELEMENTS])).await;
        }
        for round in 0..4 {
            for rank in [2, 0, 1] {
                let gradient = gradient(rank, round);
                // All in f32, all in half precision, and mixed.
                if (rank + round) % 4 == 0 {
                    halves[rank].push("w", &gradient).await.unwrap();
                    wholes[rank].push("w", &gradient).await.unwrap();
                } else {
                    let half = halved(&gradient, rank * round);
                    halves[rank].push("w", half.with_loss(0.5)).await.unwrap();
                    wholes[rank].push("w", half.to_f32().with_loss(0.5)).await.unwrap();
                }
            }
            for (half, whole) in halves.iter().zip(&wholes) {
                let (half, whole) = (half.pull("w").await.unwrap(), whole.pull("w").await.unwrap());
                assert_eq!(bits(&half), bits(&whole), "{optimizer}, round {round}");
            }
        }
        assert_eq!(half_server.digest().await, whole_server.digest().await, "{optimizer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn halves_and_rows_meet_in_one_round() {
    for optimizer in ["sgd", "adamw", "lazy-adam"] {
        let (_half_server, halves) = scene(Options::new("half-rows"), optimizer).await;
        let (_whole_server, wholes) = scene(Options::new("whole-rows"), optimizer).await;
        let whole = Tensor::new([3, 2], vec![0.1, -0.2, 0.3, -0.4, 0.5, -0.6]).unwrap();
        let rows = Rows::new([2, 0], Tensor::new([2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap()).unwrap();
        for workers in [&halves, &wholes] {
            init(workers, "table", &Tensor::new([3, 2], vec![1.0; 6]).unwrap()).await;
            workers[1].push_rows("table", &rows).await.unwrap();
        }
        let half = whole.to_f16().unwrap();
        let by_half = halves[0].push_pull("table", &half).await.unwrap();
        let by_whole = wholes[0].push_pull("table", &half.to_f32()).await.unwrap();
        assert_eq!(bits(&by_half), bits(&by_whole), "{optimizer}");
        assert_ne!(by_half.values(), [1.0; 6], "{optimizer}");
    }
}

fn push(element: ElementType, shape: &[u64], round: u64) -> Request {
    Request::Push { key: "w".into(), round, tensor: TensorType { element, shape: shape.to_vec() }, loss: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn halves_that_are_no_numbers_or_do_not_fit_are_refused_and_the_connection_goes_on() {
    let (server, workers) = scene(Options::new("bad-halves"), "sgd").await;
    init(&workers, "w", &Tensor::new([2, 3], vec![0.0; 6]).unwrap()).await;
    let (bf16, f16) = (ElementType::Bf16, ElementType::F16);
    let mut peer = RawPeer::registered(&server, 0).await;
    let infinite = |high: u8, low: u8| {
        let mut body = vec![0; 12];
        body[8..10].copy_from_slice(&[low, high]);
        body
    };
    for (id, request, body, code, expected) in [
        (10, push(f16, &[2, 3], 1), infinite(0x7c, 0x00), ErrorCode::NotFinite, "element 4 of the tensor"),
        (11, push(f16, &[2, 3], 1), infinite(0xfc, 0x01), ErrorCode::NotFinite, "is NaN"),
        (12, push(bf16, &[2, 3], 1), infinite(0xff, 0x80), ErrorCode::NotFinite, "is -inf"),
        (13, push(f16, &[2, 3], 1), vec![0; 24], ErrorCode::WrongLength, ""),
        (14, push(bf16, &[2, 3], 1), vec![0; 11], ErrorCode::WrongLength, ""),
        (15, push(ElementType::F32, &[2, 3], 1), vec![0; 12], ErrorCode::WrongLength, ""),
        (16, push(f16, &[3, 2], 1), vec![0; 12], ErrorCode::WrongShape, "has shape [2, 3]"),
        (17, push(ElementType::U8, &[2, 3], 1), vec![0; 6], ErrorCode::WrongElementType, "f32, bf16, f16"),
        (
            18,
            Request::PushRows {
                key: "w".into(),
                round: 1,
                values: TensorType { element: f16, shape: vec![1, 3] },
                loss: None,
            },
            vec![0; 8 + 6],
            ErrorCode::WrongElementType,
            "rows of key `w` are pushed as f32, not as f16",
        ),
        (
            19,
            Request::Init { key: "half".into(), tensor: TensorType { element: f16, shape: vec![2] }, tags: vec![] },
            vec![0; 4],
            ErrorCode::WrongElementType,
            "weights are f32",
        ),
    ] {
        peer.ask(id, &request, &body).await;
        let (answered, failure) = peer.refusal().await;
        assert_eq!((answered, failure.code), (id, code), "{}", failure.message);
        assert!(failure.message.contains(expected), "{}", failure.message);
        logged(&["WARN", "bad-halves-worker-0", "refused", &format!("code={code}")]);
    }
    // The largest f16 is finite, also in a tensor full of it.
    peer.ask(20, &push(f16, &[2, 3], 1), &[0xff, 0x7b].repeat(6)).await;
    assert_eq!(peer.receive().await.unwrap().1, Response::Pushed { repeated: false });
    let pulled = workers[1].push_pull("w", &Tensor::new([2, 3], vec![0.0; 6]).unwrap()).await.unwrap();
    assert_eq!(pulled.values(), [-65504.0 / 8.0; 6]);

    // The client refuses already: it sends no values that would become infinite.
    let refused = Tensor::new([2, 3], vec![7e4; 6]).unwrap().to_f16().expect_err("beyond f16");
    assert!(matches!(refused, ClientError::NotRepresentable { index: 0, .. }), "{refused}");
    assert_eq!(server.status().await.refusals, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_operator_says_which_types_are_accepted() {
    let options = Options { job: "gradient_types = ['f32', 'bf16']", ..Options::new("types") };
    let (_server, workers) = scene(options, "sgd").await;
    init(&workers, "w", &tensor(&[0.0])).await;
    let gradient = tensor(&[1.0]);
    let (code, message) = refused(workers[0].push("w", &gradient.to_f16().unwrap()).await);
    assert_eq!(code, ErrorCode::WrongElementType);
    assert!(message.contains("accepted as f32, bf16 (job.gradient_types), not as f16"), "{message}");
    workers[0].push("w", &gradient.to_bf16().unwrap()).await.unwrap();
    assert_eq!(workers[1].push_pull("w", &gradient).await.unwrap().values(), [-0.25]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn gradients_of_scaled_losses_are_scaled_back_whole_and_by_row() {
    let options = Options { job: "gradient_scale = 0.0009765625", ..Options::new("scaled") };
    let (_server, workers) = scene(options, "sgd").await;
    init(&workers, "w", &Tensor::new([2, 1], vec![0.0; 2]).unwrap()).await;
    // Lost in f16 without scaling, preserved if the loss is a thousand times as large.
    let small = 2.0_f32.powi(-26);
    let lost = Tensor::new([2, 1], vec![small; 2]).unwrap().to_f16().unwrap();
    assert_eq!(lost.to_f32().values(), [0.0; 2]);
    let kept = Tensor::new([2, 1], vec![small * 1024.0; 2]).unwrap();
    workers[0].push("w", &kept.to_f16().unwrap()).await.unwrap();
    let rows = Rows::new([0, 1], kept).unwrap();
    workers[1].push_rows("w", &rows).await.unwrap();
    assert_eq!(workers[1].pull("w").await.unwrap().values(), [-0.25 * small; 2]);
}
