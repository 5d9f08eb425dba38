//! Who and what is called how.

mod numbers;

pub(crate) use numbers::{ConnectionId, KeyId, OptimizerId, Rank};
