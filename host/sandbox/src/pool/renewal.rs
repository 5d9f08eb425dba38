//! Instances that come and go: opened where none has room, ended where room is abandoned, set up again after a failure.

use crate::error::{CallError, CallFailure, SandboxError};
use crate::instance::Instance;
use crate::instance::preparation::Preparation;
use crate::pool::InstancePool;
use crate::pool::placement::Placement;
use crate::slice::BoundSlice;
use crate::slice::layout::Layout;

impl InstancePool {
    /// A new instance, in the place of one that ended with nothing in it where there is such.
    pub(super) fn open_placement(&mut self) -> Result<usize, SandboxError> {
        let placement = Placement::new(self.component.instantiate()?);
        let in_use = |index: usize| self.slices.iter().any(|slice| slice.is_in(index));
        let unused =
            (0..self.placements.len()).find(|index| !self.placements[*index].instance.is_alive() && !in_use(*index));
        match unused {
            Some(index) => self.placements[index] = placement,
            None => self.placements.push(placement),
        }
        Ok(unused.unwrap_or(self.placements.len() - 1))
    }

    /// There is room in an instance that nobody will use: of a failed `bind`, or of a slice that was released. The
    /// instance ends; with slices in it, it is set up again before its next step, with room for these and no more.
    pub(super) fn abandon_room(&mut self, placement: usize) {
        self.placements[placement].instance.retire();
        let in_use = |placement: usize| self.slices.iter().any(|slice| slice.is_in(placement));
        // From the end, so that no index in use changes.
        let kept = (0..self.placements.len()).rfind(|placement| in_use(*placement)).map_or(0, |last| last + 1);
        self.placements.truncate(kept);
    }

    /// Sets an instance up again that has failed: a new one with the same slices and their values.
    pub(crate) fn revive(&mut self, placement: usize) -> Result<(), SandboxError> {
        if self.placements[placement].instance.is_alive() {
            return Ok(());
        }
        self.seal_open(placement);
        // Both are there until all is copied, and both count. Where there is no room for that, one at a time may be there
        // twice: without it a single trap could end the training of all that the instance holds.
        let component = self.component.clone();
        let mut _alone = None;
        let Successor { placement: revived, moved } =
            match component.instantiate().and_then(|instance| self.successor(placement, instance)) {
                Err(error) if is_short_of_memory(&error) => {
                    _alone = Some(component.overdraft());
                    let follower = component.instantiate_after(&self.placements[placement].instance)?;
                    self.successor(placement, follower)?
                }
                outcome => outcome?,
            };
        // Only now, when nothing can fail any more, does the old memory go.
        self.placements[placement] = revived;
        for (index, handle, layout) in moved {
            let slice = &mut self.slices[index];
            (slice.bound.handle, slice.bound.layout) = (handle, layout);
            // It was called for the slices that came after.
            slice.integrity.set_unchanged(None);
            // What was combined for its next phase is gone. What it was before its round is not.
            if let Some(round) = &mut slice.round {
                round.interrupted = true;
            }
        }
        Ok(())
    }

    /// An instance with the slices of another one and their values. The other is left as it is.
    fn successor(&self, placement: usize, instance: Instance) -> Result<Successor, SandboxError> {
        let mut revived = Placement::new(instance);
        let mut moved = Vec::new();
        let preparation = Preparation::new(self.component.limits());
        for (index, slice) in self.slices.iter().enumerate().filter(|(_, slice)| slice.is_in(placement)) {
            let BoundSlice { tensor, plan, settings, start, .. } = &slice.bound;
            let request = self.request(tensor, plan, settings, *start, slice.bound.elements() as u32)?;
            let (handle, layout) = revived.place(self.component.limits(), request, &preparation)?;
            let (source, target) = (self.placements[placement].instance.memory(), revived.instance.memory_mut());
            for (old, new) in slice.bound.layout.state().zip(layout.state()) {
                let values = source.bytes(old.whole())?;
                target.bytes_mut(new.whole())?.copy_from_slice(values);
            }
            moved.push((index, handle, layout));
        }
        Ok(Successor { placement: revived, moved })
    }
}

/// An instance that is to take another's place, and where each of its slices is in it.
struct Successor {
    placement: Placement,
    moved: Vec<(usize, u32, Layout)>,
}

/// Whether it is the budget of all instances together that has no room.
fn is_short_of_memory(error: &SandboxError) -> bool {
    matches!(error, SandboxError::Call(CallError { failure: CallFailure::TotalMemory { .. }, .. }))
}
