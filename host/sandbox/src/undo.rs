//! What a slice was before a step, so that the step can be taken back.
//!
//! Parameters and slots of the whole slice are copied before the optimizer is called at all: an optimizer that fails may
//! have written anywhere in its slice by then. The log lies outside the guest's reach.

use crate::layout::Layout;
use crate::memory::GuestMemory;

/// The former contents of a slice.
#[derive(Debug, Default)]
pub(crate) struct UndoLog {
    bytes: Vec<u8>,
}

impl UndoLog {
    /// Remembers a slice, in place of what was remembered before. `None` where the slice is not in the memory.
    pub(crate) fn remember(&mut self, memory: &GuestMemory, layout: &Layout) -> Option<()> {
        self.bytes.clear();
        let whole = 0..layout.elements();
        self.bytes.reserve_exact(layout.views() * layout.bytes(0, whole.clone()).len());
        for view in 0..layout.views() {
            self.bytes.extend_from_slice(memory.bytes(layout.bytes(view, whole.clone()))?);
        }
        Some(())
    }

    /// Puts the slice back. `None` where it is not in the memory, or none was remembered.
    pub(crate) fn undo(&self, memory: &mut GuestMemory, layout: &Layout) -> Option<()> {
        let whole = 0..layout.elements();
        let view_bytes = layout.bytes(0, whole.clone()).len();
        for view in 0..layout.views() {
            let former = self.bytes.get(view * view_bytes..(view + 1) * view_bytes)?;
            memory.bytes_mut(layout.bytes(view, whole.clone()))?.copy_from_slice(former);
        }
        Some(())
    }
}
