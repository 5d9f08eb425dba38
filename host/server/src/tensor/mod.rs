//! Tensors as plain data: how they are cut into slices, their weights and their gradients.

mod buffers;
pub(crate) mod cut;
pub(crate) mod gradient;
mod weights;

pub(crate) use buffers::{BufferPool, Chunks};
pub(crate) use cut::Slice;
pub use cut::{MAX_SLICE_ELEMENTS, MIN_SPREAD_ELEMENTS};
pub(crate) use gradient::{Contribution, Dense, Gradient, RowLayout, Rows};
pub(crate) use weights::Weights;
