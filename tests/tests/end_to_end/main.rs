//! The whole server over real TLS, with real components: the guarantees to its users.

mod abuse;
mod access;
mod attribution;
mod certificates;
mod departures;
mod deployments;
mod failures;
mod groups;
mod half_precision;
mod jobs;
mod learning_rate;
mod loss;
mod optimizers;
mod preparation;
mod refusals;
mod repeatability;
mod revocations;
mod rollbacks;
mod rounds;
mod rows;
mod signers;
mod submissions;
mod told;

use stepbox_client::{Client, ClientError, ErrorCode, Tensor};

/// A tensor with one axis.
fn tensor(values: &[f32]) -> Tensor {
    Tensor::new([values.len() as u64], values.to_vec()).unwrap()
}

/// Initializes a key with all workers.
async fn init(workers: &[Client], key: &str, value: &Tensor) {
    let first = workers[0].init(key, value);
    let mut others = workers[1..].iter().map(|worker| worker.init(key, value)).collect::<Vec<_>>();
    assert!(first.await.unwrap().created);
    for other in others.drain(..) {
        assert!(!other.await.unwrap().created);
    }
}

/// Runs one round in which every worker pushes the same gradient. Returns the new weights as the first worker pulls
/// them.
async fn round(workers: &[Client], key: &str, gradient: &Tensor) -> Result<Tensor, ClientError> {
    for worker in workers {
        worker.push(key, gradient).await?;
    }
    let mut pulled = Vec::new();
    for worker in workers {
        pulled.push(worker.pull(key).await);
    }
    let mut pulled = pulled.into_iter().collect::<Result<Vec<_>, _>>()?;
    for other in &pulled {
        assert_eq!(bits(other), bits(&pulled[0]), "all workers pull the same");
    }
    Ok(pulled.swap_remove(0))
}

/// The bits of the values, for exact comparison.
fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.values().iter().map(|value| value.to_bits()).collect()
}

/// The error code and the reason of the server's refusal.
fn reason<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> (ErrorCode, String) {
    match outcome {
        Err(ClientError::Refused { code, reason: Some(reason), .. }) => (code, reason),
        other => panic!("not refused for a reason: {other:?}"),
    }
}

/// The error code and the message of the server's refusal.
fn refused<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> (ErrorCode, String) {
    match outcome {
        Err(ClientError::Refused { code, message, .. }) => (code, message),
        other => panic!("not refused: {other:?}"),
    }
}
