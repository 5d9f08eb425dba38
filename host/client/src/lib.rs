//! The client of a Stepbox parameter server: what workers and operators connect with.
//!
//! A [`Client`] is one connection over TLS 1.3, authenticated by certificates in both directions. Its methods take
//! `&self` and may run at the same time: requests are multiplexed over the connection and answered in whatever order
//! the server finishes them.
//!
//! # A worker
//!
//! ```no_run
//! use stepbox_client::{Client, ClientConfig, ClientError, Tensor};
//!
//! # fn gradient(weights: &Tensor) -> Vec<f32> { weights.values().to_vec() }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ClientError> {
//! let config = ClientConfig::new("ps.example.com:7437", "ca.pem", "worker-0.pem", "worker-0.key");
//! let client = Client::connect(&config).await?;
//! let registration = client.register().await?;
//! println!("worker {} of {}", registration.rank, registration.workers);
//!
//! // Every worker offers the same first value; the one of rank 0 counts.
//! client.init("weight", &Tensor::new([10, 784], vec![0.0; 7840])?).await?;
//!
//! let mut weights = client.pull("weight").await?;
//! for _round in 0..100 {
//!     let gradient = Tensor::new([10, 784], gradient(&weights))?;
//!     // The mean of all workers' gradients goes through the server's optimizer; the new weights come back.
//!     weights = client.push_pull("weight", &gradient).await?;
//! }
//! client.leave().await?;
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! A model has many keys: `futures::future::try_join_all`, or `tokio::try_join!`, over [`Client::push_pull`] sends all
//! of them at once.
//!
//! A large embedding of which a round touches few rows is pushed and pulled by rows: [`Client::push_pull_rows`].
//!
//! Where the network is what takes time, gradients go in half precision: `push("weight", &gradient.to_bf16()?)`, or
//! [`to_f16`](Tensor::to_f16). Weights come back as `f32`.
//!
//! # Rounds
//!
//! A key's version counts the updates it has seen. A gradient belongs to the round that makes the next version from
//! the weights it was computed from, and a round runs once every worker of the job has pushed. The client keeps count:
//! it learns a key's version from [`init`](Client::init) and from each pull, [`push`](Client::push) names the round
//! after it, and a [`pull`](Client::pull) behind a push waits for that round's weights.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod client;
mod config;
mod connection;
mod deployments;
mod error;
mod gradient;
mod half_tensor;
mod handshake;
mod progress;
mod tensor;
mod tls;

pub use client::{Client, Initialization, Push, Registration};
pub use config::{ClientConfig, DEFAULT_CONNECT_TIMEOUT, DEFAULT_REQUEST_TIMEOUT};
pub use deployments::Deployment;
pub use error::ClientError;
pub use gradient::{Rows, WholeGradient, WithLoss};
pub use half_tensor::HalfTensor;
pub use stepbox_wire::{
    AuditStatus, DEFAULT_JOB, DeployOptions, DeploymentStatus, ElementType, ErrorCode, FrameError, FrameLimits, Group,
    KeyStatus, OptimizerStatus, Protection, RevokedOptimizer, Schedule, ScheduleKind, ScheduleStatus, ServerStatus,
    Standing, SubmissionStatus, TensorFilter, TensorType, WorkerStatus,
};
pub use tensor::Tensor;
