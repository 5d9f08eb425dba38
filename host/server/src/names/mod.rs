//! Names and numbers of peers, workers, tensors and optimizers, and the refusal of a request.

mod identity;
mod numbers;
mod refusal;
mod spiffe;

pub use identity::{Identity, IdentityError, MAX_IDENTITY_CHARACTERS};
pub(crate) use numbers::{ConnectionId, OptimizerId, Rank, TensorId};
pub(crate) use refusal::{Answered, Refusal};
pub use spiffe::{MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeIdError};
