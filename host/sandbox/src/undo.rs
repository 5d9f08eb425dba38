//! What a slice was before a round, so that the round can be taken back.
//!
//! What a round may change is copied before the optimizer is called at all: parameters and slots of the whole slice, or
//! of the rows that are touched. An optimizer that fails may have written anywhere in its slice by then. The log lies
//! outside the guest's reach.

use std::ops::Range;

use crate::memory::GuestMemory;

/// Former contents of places in one memory.
#[derive(Debug, Default)]
pub(crate) struct UndoLog {
    places: Vec<Range<usize>>,
    bytes: Vec<u8>,
}

impl UndoLog {
    /// Forgets what was remembered and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.bytes.clear();
    }

    /// Remembers a place. `None` where it is not in the memory.
    pub(crate) fn remember(&mut self, memory: &GuestMemory, place: Range<usize>) -> Option<()> {
        let contents = memory.bytes(place.clone())?;
        self.bytes.extend_from_slice(contents);
        match self.places.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            _ => self.places.push(place),
        }
        Some(())
    }

    /// Makes room for this many bytes and no more: growing twofold would keep up to twice the slice.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve_exact(bytes.saturating_sub(self.bytes.len()));
    }

    /// Puts everything back. `None` where a place is not in the memory.
    pub(crate) fn undo(&self, memory: &mut GuestMemory) -> Option<()> {
        let mut former = self.bytes.as_slice();
        for place in &self.places {
            let (contents, rest) = former.split_at_checked(place.len())?;
            memory.bytes_mut(place.clone())?.copy_from_slice(contents);
            former = rest;
        }
        Some(())
    }
}
