//! Numbers that name workers, connections, tensors and optimizers.

/// A worker's place in the job.
pub(crate) type Rank = u32;

/// Names a connection for as long as the server runs.
pub(crate) type ConnectionId = u64;

/// Names a key for as long as the server runs.
pub(crate) type TensorId = u64;

/// Counts deployments.
pub(crate) type OptimizerId = u64;
