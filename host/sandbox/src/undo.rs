//! What a slice was before a round, so that the round can be taken back.
//!
//! What a round may change is copied before the optimizer is called at all: parameters and slots of the whole slice, or
//! of the rows that are touched. An optimizer that fails may have written anywhere in its slice by then. The log lies
//! outside the guest's reach, and names places by view, so that it holds in another instance too.

use std::ops::Range;

use crate::layout::Layout;
use crate::memory::GuestMemory;
use crate::state::StatePart;

/// Former contents of parts of a slice.
#[derive(Debug, Default)]
pub(crate) struct UndoLog {
    /// A view of the slice's state, and elements of it.
    places: Vec<(usize, Range<usize>)>,
    bytes: Vec<u8>,
}

impl UndoLog {
    /// Remembers parts of a slice, in place of what was remembered before. `None` where one is not in the memory.
    pub(crate) fn remember(&mut self, memory: &GuestMemory, parts: &[StatePart]) -> Option<()> {
        self.places.clear();
        self.bytes.clear();
        // No more than that: growing twofold would keep up to twice the slice.
        self.bytes.reserve_exact(parts.iter().map(|part| part.bytes().len()).sum());
        for part in parts {
            self.bytes.extend_from_slice(memory.bytes(part.bytes())?);
            let view = part.slot.map_or(0, |slot| slot + 1);
            match self.places.last_mut() {
                Some((last, elements)) if *last == view && elements.end == part.elements.start => {
                    elements.end = part.elements.end;
                }
                _ => self.places.push((view, part.elements.clone())),
            }
        }
        Some(())
    }

    /// Puts everything back to where the slice is now. `None` where a place is not in the memory.
    pub(crate) fn undo(&self, memory: &mut GuestMemory, layout: &Layout) -> Option<()> {
        let mut former = self.bytes.as_slice();
        for (view, elements) in &self.places {
            let place = layout.state().nth(*view)?.part(elements.clone());
            let (contents, rest) = former.split_at_checked(place.len())?;
            memory.bytes_mut(place)?.copy_from_slice(contents);
            former = rest;
        }
        Some(())
    }
}
