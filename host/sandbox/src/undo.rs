//! What a step overwrote, so that it can be taken back.
//!
//! Each block's parameters and slots are copied just before the optimizer gets them, when they have to come into the
//! cache anyway. The log lives outside the guest's reach.

use std::ops::Range;

use crate::layout::Layout;
use crate::memory::GuestMemory;

/// The former contents of the blocks of a slice that a step has visited so far.
#[derive(Debug, Default)]
pub(crate) struct UndoLog {
    blocks: Vec<Range<usize>>,
    bytes: Vec<u8>,
}

impl UndoLog {
    /// Forgets everything, keeps the room.
    pub(crate) fn clear(&mut self) {
        self.blocks.clear();
        self.bytes.clear();
    }

    /// Remembers a block (elements of the slice). `None` where the slice is not in the memory.
    pub(crate) fn remember(&mut self, memory: &GuestMemory, layout: &Layout, block: Range<usize>) -> Option<()> {
        for view in 0..layout.views() {
            self.bytes.extend_from_slice(memory.bytes(layout.bytes(view, block.clone()))?);
        }
        self.blocks.push(block);
        Some(())
    }

    /// Puts everything back and forgets it.
    pub(crate) fn undo(&mut self, memory: &mut GuestMemory, layout: &Layout) -> Option<()> {
        let mut rest = self.bytes.as_slice();
        for block in &self.blocks {
            for view in 0..layout.views() {
                let target = memory.bytes_mut(layout.bytes(view, block.clone()))?;
                let (former, behind) = rest.split_at(target.len());
                target.copy_from_slice(former);
                rest = behind;
            }
        }
        self.clear();
        Some(())
    }
}
