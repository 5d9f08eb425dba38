//! Buffers for gradients and new weights of one tensor. They are used round after round.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;
use stepbox_reduce::Format;

use super::cut::Slice;

/// Unused buffers of one tensor.
#[derive(Debug)]
pub(crate) struct BufferPool {
    /// Elements of each slice.
    elements: Vec<usize>,
    /// Most buffers of a slice that are kept.
    most: usize,
    /// The kept buffers of each slice.
    spare: Mutex<Vec<Vec<Vec<u8>>>>,
}

/// One buffer for each slice of a tensor. Those that are still here when this is dropped go back to their pool.
#[derive(Debug)]
pub(crate) struct Chunks {
    buffers: Vec<Vec<u8>>,
    pool: Option<Arc<BufferPool>>,
}

impl BufferPool {
    /// A pool for a tensor that is cut into these slices. It keeps a gradient of each worker and one version of weights.
    pub fn new(slices: &[Slice], workers: usize) -> Self {
        let elements = slices.iter().map(|slice| slice.elements as usize).collect();
        Self { elements, most: workers + 1, spare: Mutex::new(vec![Vec::new(); slices.len()]) }
    }

    /// Buffers for a gradient in this format, one for each slice.
    pub fn lend(self: &Arc<Self>, format: Format) -> Chunks {
        let mut spare = self.spare.lock();
        let found: Vec<_> = self
            .elements
            .iter()
            .zip(&mut *spare)
            .map(|(elements, spare)| {
                let bytes = elements * format.element_bytes();
                let fits = spare.iter().position(|buffer| buffer.len() == bytes);
                if fits.is_none() && !spare.is_empty() {
                    // A worker has changed its format: what it pushed in before is not kept beside.
                    spare.remove(0);
                }
                fits.map(|index| spare.swap_remove(index)).ok_or(bytes)
            })
            .collect();
        drop(spare);
        let buffers = found.into_iter().map(|found| found.unwrap_or_else(|bytes| vec![0; bytes])).collect();
        Chunks { buffers, pool: Some(Arc::clone(self)) }
    }

    /// Keeps buffers, each with the position of the slice that it is for, for rounds to come.
    pub fn keep(&self, buffers: impl IntoIterator<Item = (usize, Vec<u8>)>) {
        let mut spare = self.spare.lock();
        for (slice, buffer) in buffers {
            if let Some(spare) = spare.get_mut(slice)
                && spare.len() < self.most
            {
                spare.push(buffer);
            }
        }
    }
}

impl Chunks {
    /// The buffers, for an owner that does not give them back.
    pub fn detach(mut self) -> Vec<Vec<u8>> {
        self.pool = None;
        std::mem::take(&mut self.buffers)
    }
}

impl From<Vec<Vec<u8>>> for Chunks {
    /// Buffers that belong to no pool.
    fn from(buffers: Vec<Vec<u8>>) -> Self {
        Self { buffers, pool: None }
    }
}

impl Deref for Chunks {
    type Target = [Vec<u8>];

    fn deref(&self) -> &[Vec<u8>] {
        &self.buffers
    }
}

impl DerefMut for Chunks {
    fn deref_mut(&mut self) -> &mut [Vec<u8>] {
        &mut self.buffers
    }
}

impl PartialEq for Chunks {
    fn eq(&self, other: &Self) -> bool {
        self.buffers == other.buffers
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.keep(std::mem::take(&mut self.buffers).into_iter().enumerate());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::cut;

    fn pool(workers: usize) -> Arc<BufferPool> {
        Arc::new(BufferPool::new(&cut::cut(2, &mut [0]), workers))
    }

    #[test]
    fn buffers_come_back_when_they_are_dropped_and_not_when_they_are_detached() {
        let pool = pool(1);
        let mut lent = pool.lend(Format::F32);
        lent[0].fill(7);
        drop(lent);
        let again = pool.lend(Format::F32);
        assert_eq!(again[0], [7; 8], "the same memory");
        assert_eq!(pool.lend(Format::F32)[0], [0; 8], "the other one is in use");
        drop(again.detach());
        assert_eq!(pool.lend(Format::F32)[0], [0; 8]);
    }

    #[test]
    fn a_pool_keeps_a_gradient_of_each_worker_and_one_more() {
        let pool = pool(2);
        let lent: Vec<_> = (0..10).map(|_| pool.lend(Format::F32)).collect();
        drop(lent);
        assert_eq!(pool.spare.lock()[0].len(), 3);
    }
}
