//! A key's weights as workers see them.

use std::sync::Arc;

use crate::cut::Slice;

/// One version of a key's weights: immutable, in the chunks in which shards produced them. All pulls of a version share
/// it, so serving a pull copies nothing.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// Rounds the key has been updated.
    pub version: u64,
    chunks: Vec<Vec<u8>>,
}

impl Weights {
    /// First weights, from the tensor's bytes.
    pub fn first(bytes: &[u8], slices: &[Slice]) -> Self {
        Self { version: 0, chunks: slices.iter().map(|slice| bytes[slice.bytes()].to_vec()).collect() }
    }

    /// From chunks in the order of the key's cut.
    pub fn new(version: u64, chunks: Vec<Vec<u8>>) -> Self {
        Self { version, chunks }
    }

    /// The bytes of a slice, by its position in the key's cut.
    pub fn chunk(&self, index: usize) -> &[u8] {
        &self.chunks[index]
    }

    /// The tensor's bytes, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().map(Vec::as_slice)
    }

    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// The buffers, where no pull reads this version any more.
    pub fn into_buffers(self: Arc<Self>) -> Vec<Vec<u8>> {
        Arc::into_inner(self).map(|weights| weights.chunks).unwrap_or_default()
    }
}
