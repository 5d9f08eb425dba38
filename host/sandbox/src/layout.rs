//! Where a slice's parameters and slots lie within the run of memory that was reserved for them.

use std::ops::Range;

use crate::contract::types;
use crate::error::SandboxError;
use crate::memory::GuestMemory;

/// Alignment of every view, in bytes, as the contract says.
pub(crate) const ALIGNMENT: u64 = 64;

const ELEMENT: u64 = size_of::<f32>() as u64;

/// A slice's views, as byte offsets in the linear memory: the parameters, then each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    offsets: Vec<u32>,
    elements: u32,
}

/// Bytes to reserve for a slice. `None` where a 32-bit memory cannot hold them.
pub(crate) fn bytes_needed(elements: u32, slots: usize) -> Option<u32> {
    let view = (u64::from(elements) * ELEMENT).next_multiple_of(ALIGNMENT);
    u32::try_from(view.checked_mul(slots as u64 + 1)?).ok()
}

impl Layout {
    /// Lays the views out from `base` on, where [`bytes_needed`] bytes were reserved.
    pub(crate) fn new(base: u32, elements: u32, slots: usize) -> Self {
        let view = (u64::from(elements) * ELEMENT).next_multiple_of(ALIGNMENT);
        let offsets = (0..=slots as u64).map(|index| (u64::from(base) + index * view) as u32).collect();
        Self { offsets, elements }
    }

    /// Elements in each view.
    pub(crate) fn elements(&self) -> usize {
        self.elements as usize
    }

    /// Number of views: the parameters and the slots.
    pub(crate) fn views(&self) -> usize {
        self.offsets.len()
    }

    /// Bytes of a part of a view (0 for the parameters, 1 for the first slot).
    pub(crate) fn bytes(&self, view: usize, elements: Range<usize>) -> Range<usize> {
        let start = self.offsets[view] as usize;
        start + elements.start * size_of::<f32>()..start + elements.end * size_of::<f32>()
    }

    /// A part of a view.
    pub(crate) fn values<'a>(&self, memory: &'a GuestMemory, view: usize, elements: Range<usize>) -> Option<&'a [f32]> {
        memory.floats(self.bytes(view, elements.clone()).start, elements.len())
    }

    /// A view, to be written.
    pub(crate) fn values_mut<'a>(&self, memory: &'a mut GuestMemory, view: usize) -> Option<&'a mut [f32]> {
        memory.floats_mut(self.offsets[view] as usize, self.elements())
    }

    /// The slice as `bind` wants it.
    pub(crate) fn raw(&self, tensor: types::Tensor, start: u64) -> types::Slice {
        let view = |offset: &u32| types::View { offset: *offset, elements: self.elements };
        types::Slice {
            tensor,
            start,
            parameters: view(&self.offsets[0]),
            slots: self.offsets[1..].iter().map(view).collect(),
            scalars: types::View { offset: self.offsets[0], elements: 0 },
            contributions: Vec::new(),
            combined: Vec::new(),
        }
    }
}

/// The places an instance has given, each of which must be in its memory, aligned, and nobody else's.
#[derive(Debug, Default)]
pub(crate) struct Places(Vec<Range<u64>>);

impl Places {
    /// Checks what `reserve` returned and remembers it.
    pub(crate) fn claim(&mut self, offset: u32, bytes: u32, memory_bytes: usize) -> Result<(), SandboxError> {
        let refuse = |reason| Err(SandboxError::Offset { offset, bytes, reason });
        let place = u64::from(offset)..u64::from(offset) + u64::from(bytes);
        if !place.start.is_multiple_of(ALIGNMENT) {
            return refuse("it is not aligned to 64 bytes");
        }
        if place.end > memory_bytes as u64 {
            return refuse("it lies outside the memory");
        }
        if self.0.iter().any(|other| place.start < other.end && other.start < place.end) {
            return refuse("it overlaps what was given before");
        }
        self.0.push(place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_aligned_and_apart() {
        let bytes = bytes_needed(17, 2).unwrap();
        assert_eq!(bytes, 3 * 128);
        let layout = Layout::new(640, 17, 2);
        assert_eq!(layout.bytes(0, 0..17), 640..708);
        assert_eq!(layout.bytes(1, 16..17), 832..836);
        assert_eq!(layout.bytes(2, 0..1), 896..900);
    }

    #[test]
    fn what_a_32_bit_memory_cannot_hold_is_none() {
        assert_eq!(bytes_needed(u32::MAX, 0), None);
        assert_eq!(bytes_needed(1 << 29, 2), None);
    }

    #[test]
    fn hostile_offsets_are_refused() {
        let mut places = Places::default();
        assert_eq!(places.claim(64, 64, 4096), Ok(()));
        for (offset, bytes) in [(65, 64), (4096, 64), (u32::MAX - 63, 4096), (64, 1), (0, 65), (0, 4096), (4032, 65)] {
            assert!(places.claim(offset, bytes, 4096).is_err(), "{offset} {bytes}");
        }
        assert_eq!(places.claim(128, 3968, 4096), Ok(()));
    }
}
