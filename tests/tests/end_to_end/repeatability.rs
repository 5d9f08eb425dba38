//! The same run gives the same bits, for any order of workers and any number of threads.

use stepbox_client::Tensor;
use stepbox_tests::{Options, TestServer, in_time};

use crate::init;

const WORKERS: usize = 4;
const ROUNDS: u64 = 12;

/// A tensor that is cut and spread over two shard threads, a vector of odd length, and a scalar.
const KEYS: [(&str, &[u64]); 3] = [("embedding", &[700, 300]), ("bias", &[1237]), ("scale", &[])];

/// Values between -1 and 1 times a power of two between 2⁻¹² and 2¹², so that f32 sums depend on their order.
fn gradient(shape: &[u64], rank: usize, round: u64) -> Tensor {
    let mut state = (rank as u64) << 40 ^ round << 20 ^ shape.len() as u64;
    let values = (0..shape.iter().product()).map(|_: u64| {
        // Knuth's MMIX generator; its upper bits are good enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        unit * ((state >> 32 & 31) as f32 - 12.0).exp2()
    });
    Tensor::new(shape, values.collect::<Vec<_>>()).unwrap()
}

/// Trains from scratch with a new server. Workers register and push in this order. Returns the digest of the weights.
async fn train(optimizer: &str, shard_threads: usize, order: [usize; WORKERS]) -> String {
    let server = TestServer::start(Options { workers: WORKERS, shard_threads, ..Options::new("repeatability") });
    server.deploy(optimizer, "1.0.0", &[("learning_rate", "0.01")]).await;
    let workers = server.workers(order).await;
    for (key, shape) in KEYS {
        init(&workers, key, &gradient(shape, WORKERS, 0)).await;
    }
    for number in 1..=ROUNDS {
        for rank in order {
            for (key, shape) in KEYS {
                workers[rank].push(key, &gradient(shape, rank, number)).await.unwrap();
            }
        }
        for (key, _) in KEYS {
            for worker in &workers {
                worker.pull(key).await.unwrap();
            }
        }
    }
    let status = server.status().await;
    assert!(status.keys.iter().all(|key| key.version == ROUNDS));
    assert_eq!(status.updates, ROUNDS * KEYS.len() as u64);
    let cut = status.keys.iter().find(|key| key.key == "embedding").unwrap();
    assert_eq!(cut.slices as usize, shard_threads, "the tensor is spread over the threads");
    status.weights_digest.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_run_repeated_gives_the_same_bits() {
    in_time(async {
        let first = train("adamw", 1, [0, 1, 2, 3]).await;
        assert_eq!(train("adamw", 1, [0, 1, 2, 3]).await, first);
        assert_eq!(train("adamw", 1, [3, 1, 2, 0]).await, first, "workers in another order");
        assert_eq!(train("adamw", 2, [2, 0, 3, 1]).await, first, "two shard threads");
        assert_ne!(train("lion", 1, [0, 1, 2, 3]).await, first, "the digest can differ");
    })
    .await;
}

/// Without this check, the test above would pass even if sums were computed in the order of arrival.
#[test]
fn these_gradients_sum_to_other_bits_in_another_order() {
    let gradients: Vec<_> = (0..WORKERS).map(|rank| gradient(KEYS[1].1, rank, 1)).collect();
    let sum = |order: [usize; WORKERS]| -> Vec<u32> {
        (0..KEYS[1].1[0] as usize)
            .map(|index| order.iter().map(|rank| gradients[*rank].values()[index]).sum::<f32>().to_bits())
            .collect()
    };
    assert_ne!(sum([0, 1, 2, 3]), sum([3, 1, 2, 0]));
    assert_ne!(sum([0, 1, 2, 3]), sum([2, 0, 3, 1]));
}
