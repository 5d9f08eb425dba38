//! A key's weights as workers see them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::cut::Slice;

/// One version of a key's weights: immutable, in the chunks in which shards produced them. All pulls of a version share
/// it, so serving a pull copies nothing.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// Rounds the key has been updated.
    pub version: u64,
    chunks: Vec<Vec<u8>>,
    /// Where each chunk ends among the tensor's bytes.
    ends: Vec<usize>,
}

impl Weights {
    /// First weights, from the tensor's bytes.
    pub fn first(bytes: &[u8], slices: &[Slice]) -> Self {
        Self::new(0, slices.iter().map(|slice| bytes[slice.bytes()].to_vec()).collect())
    }

    /// From chunks in order.
    pub fn new(version: u64, chunks: Vec<Vec<u8>>) -> Self {
        let mut end = 0;
        let add = |chunk: &Vec<u8>| {
            end += chunk.len();
            end
        };
        let ends = chunks.iter().map(add).collect();
        Self { version, chunks, ends }
    }

    /// A range of the tensor's bytes: borrowed where it lies in one chunk.
    pub fn range(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        let first = self.ends.partition_point(|end| *end <= range.start);
        if let Some(chunk) = self.chunks.get(first) {
            let start = self.ends[first] - chunk.len();
            if range.end <= self.ends[first] {
                return Cow::Borrowed(&chunk[range.start - start..range.end - start]);
            }
        }
        let mut joined = Vec::with_capacity(range.len());
        self.copy_to(&mut joined, range);
        Cow::Owned(joined)
    }

    /// Appends a range of the tensor's bytes.
    pub fn copy_to(&self, out: &mut Vec<u8>, range: Range<usize>) {
        let first = self.ends.partition_point(|end| *end <= range.start);
        let mut at = range.start;
        for (chunk, chunk_end) in self.chunks.iter().zip(&self.ends).skip(first) {
            let (start, end) = (chunk_end - chunk.len(), range.end.min(*chunk_end));
            if at >= end {
                break;
            }
            out.extend_from_slice(&chunk[at - start..end - start]);
            at = end;
        }
    }

    /// The tensor's bytes, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().map(Vec::as_slice)
    }

    pub fn bytes(&self) -> u64 {
        self.ends.last().map_or(0, |end| *end as u64)
    }

    /// The buffers, where no pull reads this version any more.
    pub fn into_buffers(self: Arc<Self>) -> Vec<Vec<u8>> {
        Arc::into_inner(self).map(|weights| weights.chunks).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_across_chunks() {
        let slices: Vec<_> = (0..4).map(|index| Slice { start: index * 2, elements: 2, shard: 0 }).collect();
        let bytes: Vec<u8> = (0..32).collect();
        let weights = Weights::first(&bytes, &slices);
        for start in 0..=32 {
            for end in start..=32 {
                let mut found = Vec::new();
                weights.copy_to(&mut found, start..end);
                assert_eq!(found, bytes[start..end]);
                assert_eq!(weights.range(start..end), &bytes[start..end]);
            }
        }
        assert!(matches!(weights.range(8..16), Cow::Borrowed(_)));
    }
}
