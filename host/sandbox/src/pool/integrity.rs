//! Optimizers that write where they have no business: into another slice of their instance, or into rows that nobody has
//! touched. Seals ([`crate::slice::seals`]) show it; here is who looks when, and what follows.
//!
//! A slice is looked at before its own steps and before anything of it is read, so that nothing false is ever used. That
//! finds the deed but not its time. Therefore a little of the other slices, chosen by chance, is looked at after each step
//! ([`InstancePool::patrol`]), and much of them after each failure ([`InstancePool::examine`]).
//!
//! What was changed cannot be trusted, nor can the instance: it ends. A slice in the middle of a round goes back to what it
//! was before. Any other stays unusable until it is loaded again; rows that are told apart, each by itself, until
//! [`InstancePool::start_rows_afresh`].

use crate::error::{Found, SandboxError, StepError, Tampering};
use crate::limits::CHUNK_ELEMENTS;
use crate::pool::InstancePool;
use crate::pool::placement::Placement;
use crate::slice::parts::{StatePart, unit_parameters};
use crate::slice::seal::CopyTo;
use crate::slice::seals::{BrokenSeal, Integrity};
use crate::slice::{BoundSlice, Slice, SliceId};

/// Of how many elements that were stepped one other is looked at. Looking costs a twentieth of a step, and memory that is
/// not in the caches.
const PATROL_SHARE: usize = 16;

/// How many slices are tried for one that a patrol could look at.
const PATROL_TRIES: usize = 4;

/// The longest slot that all of a slice shares that a patrol looks at: preconditioners of matrix methods are far longer.
const SHARED_BYTES: usize = 64 << 10;

/// Parameters and slots that are looked at after a failure, in bytes: a few milliseconds. Who has gradients fail on purpose
/// should not keep a shard busy for longer than that; slices that are not looked at are before they are used.
const EXAMINED_BYTES: usize = 64 << 20;

impl InstancePool {
    /// Makes sure that all of a slice is what its own steps and the server have left there.
    ///
    /// # Errors
    /// It is not, or the memory is not there: the optimizer misbehaved.
    pub fn verify(&self, slice: SliceId) -> Result<(), SandboxError> {
        let (verified, Placement { instance, .. }) = self.at(slice);
        match verified.broken(instance.memory(), instance.calls())? {
            None => Ok(()),
            Some(broken) => Err(self.tampering(slice, broken, Found::Reading).into()),
        }
    }

    /// Gives up what of a slice was changed outside its steps, where rows are told apart: such rows become zeros, and their
    /// slots, as well as slots that all rows share, get their first values again. Returns the rows, counted from the slice's
    /// first. There is nothing better to give them where nobody has kept a copy; elsewhere, [load](Self::load) the slice.
    ///
    /// # Errors
    /// The memory is not there: the optimizer misbehaved.
    ///
    /// # Panics
    /// If the tensor's plan is not one of touched rows.
    pub fn start_rows_afresh(&mut self, slice: SliceId) -> Result<Vec<u32>, SandboxError> {
        let (slice, Placement { instance, .. }) = self.at_mut(slice);
        assert!(slice.bound.plan.is_of_touched_rows(), "rows are told apart");
        let mut afresh = Vec::new();
        let parts: Vec<_> = match slice.integrity.is_unchanged(instance.calls()) {
            true => Vec::new(),
            false => slice.bound.parts().collect(),
        };
        let memory = instance.memory_mut();
        for part in parts {
            // On from behind what was broken: however much of it there is, all is looked at once.
            let mut rest = part.clone();
            while let Some(unit) = slice.first_broken(memory, &rest)? {
                match part.unit {
                    None => {
                        slice.start_part_afresh(memory, &part)?;
                        break;
                    }
                    Some(_) => {
                        slice.start_row_afresh(memory, unit)?;
                        afresh.push(unit as u32);
                        rest = part.clone().within(unit + 1..part.units().end);
                    }
                }
            }
        }
        slice.integrity.restored();
        Ok(afresh)
    }

    /// What to say of something that was changed. What was said first is more than can be said later.
    pub(crate) fn tampering(&self, slice: SliceId, broken: BrokenSeal, found: Found) -> Tampering {
        self.slices[slice.0].tampering(&self.component.description().name, broken, found)
    }

    /// Ends the instance of a slice that is not as it was left.
    pub(crate) fn caught(&mut self, slice: SliceId, broken: BrokenSeal, found: Found) -> Tampering {
        let tampering = self.tampering(slice, broken, found);
        tracing::error!(%tampering, "an optimizer's instance has ended");
        let caught = &mut self.slices[slice.0];
        caught.integrity.tampered(tampering.clone());
        let placement = caught.bound.placement;
        self.seal_open(placement);
        self.placements[placement].instance.retire();
        tampering
    }

    /// After a step that succeeded: looks at a unit of some other slice of the instance, or of the same where rows are told
    /// apart, for every so many that were stepped.
    pub(crate) fn patrol(&mut self, stepped: SliceId, elements: usize, step: u64) -> Result<(), StepError> {
        self.patrol.stepped += elements;
        while self.patrol.stepped >= PATROL_SHARE * CHUNK_ELEMENTS as usize {
            self.patrol.stepped -= PATROL_SHARE * CHUNK_ELEMENTS as usize;
            let Some(other) = (0..PATROL_TRIES).find_map(|_| self.someone(stepped)) else { continue };
            let bound = &self.slices[other.0].bound;
            // As many rows as make a chunk, where a unit is less.
            let unit = unit_parameters(&bound.plan);
            let at_once = (CHUNK_ELEMENTS as usize / unit).max(1);
            let units = bound.elements().div_ceil(unit);
            let start = self.patrol.one_of(units).unwrap_or(0);
            let (Slice { bound, seals, .. }, placement) = self.at(other);
            let memory = placement.instance.memory();
            let near = |part: &StatePart| part.unit.is_some() || part.bytes().len() <= SHARED_BYTES;
            let looked_at = |part: StatePart| {
                let part = part.within(start..units.min(start + at_once));
                seals.verify(memory, &part, CopyTo::Nowhere)
            };
            let intact = bound.parts().filter(near).map(looked_at).find(|intact| !matches!(intact, Ok(Ok(()))));
            if let Err(broken) = intact.transpose()?.unwrap_or(Ok(())) {
                let bound = &self.slices[stepped.0].bound;
                let (key, slice_start) = (bound.tensor.name.clone(), bound.start);
                return Err(self.caught(other, broken, Found::AfterStep { key, slice_start, step }).into());
            }
        }
        Ok(())
    }

    /// A slice that a patrol could look at, or none at this try.
    fn someone(&mut self, stepped: SliceId) -> Option<SliceId> {
        let index = self.patrol.one_of(self.slices.len())?;
        let slice = &self.slices[index];
        let is_other = index != stepped.0 || slice.bound.plan.is_of_touched_rows();
        let is_here = slice.is_in(self.slices[stepped.0].bound.placement);
        (is_other && is_here && matches!(slice.integrity, Integrity::Sealed { .. })).then_some(SliceId(index))
    }

    /// After a step that failed: looks at the slices of the instance, from some slice on, as far as time allows. Their own
    /// steps will fail.
    pub(crate) fn examine(&mut self, failed: SliceId, step: u64) {
        let BoundSlice { tensor, start: slice_start, placement, .. } = &self.slices[failed.0].bound;
        let (key, slice_start, placement) = (tensor.name.clone(), *slice_start, *placement);
        let first = self.patrol.one_of(self.slices.len()).unwrap_or(0);
        let mut left = EXAMINED_BYTES;
        for index in (first..self.slices.len()).chain(0..first) {
            let slice = &self.slices[index];
            if !slice.is_in(placement) || matches!(slice.integrity, Integrity::Tampered { .. }) {
                continue;
            }
            let bytes = slice.bound.parts().map(|part| part.bytes().len()).sum();
            let instance = &self.placements[placement].instance;
            if let Ok(Some(broken)) = slice.broken(instance.memory(), instance.calls()) {
                let found = Found::AfterFailure { key: key.clone(), slice_start, step };
                self.caught(SliceId(index), broken, found);
            }
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }
}
