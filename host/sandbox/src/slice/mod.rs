//! A part of a tensor in an instance's memory: where its parameters and slots lie, its seals, and what it was before its
//! round.

pub(crate) mod finite;
pub(crate) mod layout;
pub(crate) mod parts;
mod report;
pub(crate) mod seal;
pub(crate) mod seals;
pub(crate) mod undo;

use std::sync::Arc;

use crate::contract::declarations::Initial;
use crate::contract::plan::Plan;
use crate::contract::settings::Settings;
use crate::contract::tensor::TensorDescription;
use crate::error::{Found, NotInMemory, Tampering};
use crate::instance::limiter::Charge;
use crate::instance::memory::GuestMemory;
use layout::Layout;
use parts::{StatePart, parts_of};
use seal::CopyTo;
use seals::{BrokenSeal, Integrity, SliceSeals};
use undo::UndoLog;

/// Names a slice within its [`InstancePool`](crate::InstancePool).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SliceId(pub(crate) usize);

/// A slice and where it lives.
pub(crate) struct BoundSlice {
    pub(crate) tensor: TensorDescription,
    pub(crate) settings: Settings,
    pub(crate) plan: Arc<Plan>,
    pub(crate) start: u64,
    pub(crate) placement: usize,
    pub(crate) handle: u32,
    pub(crate) layout: Layout,
}

impl BoundSlice {
    /// The parameters and the slots, each whole.
    pub(crate) fn parts(&self) -> impl Iterator<Item = StatePart> + use<'_> {
        parts_of(&self.plan, &self.layout)
    }

    /// The parameters, whole.
    pub(crate) fn parameters(&self) -> Result<StatePart, NotInMemory> {
        self.parts().next().ok_or(NotInMemory)
    }

    /// Everything that belongs to these rows alone, which are in ascending order and without repetition.
    pub(crate) fn touched<'a>(&self, rows: &'a [u32]) -> impl Iterator<Item = StatePart> + use<'a> {
        parts::touched(&self.plan, &self.layout, rows)
    }

    /// Number of parameters.
    pub(crate) fn elements(&self) -> usize {
        self.layout.elements()
    }

    /// Writes the parameters, as raw little-endian `f32`.
    pub(crate) fn write_parameters(&self, memory: &mut GuestMemory, parameters: &[u8]) -> Result<(), NotInMemory> {
        memory.bytes_mut(self.layout.parameters.whole())?.copy_from_slice(parameters);
        Ok(())
    }

    /// Gives a slice's slots their first values. Its parameters are there.
    pub(crate) fn initialize_slots(&self, memory: &mut GuestMemory) -> Result<(), NotInMemory> {
        self.parts()
            .skip(1)
            .zip(&self.plan.slots)
            .try_for_each(|(part, slot)| self.initialize(memory, &part, slot.initial))
    }

    /// Gives a part of a slice these first values.
    pub(crate) fn initialize(
        &self,
        memory: &mut GuestMemory,
        part: &StatePart,
        initial: Initial,
    ) -> Result<(), NotInMemory> {
        let place = part.bytes();
        match initial {
            Initial::Zero => memory.bytes_mut(place)?.fill(0),
            Initial::Constant(value) => {
                let element = part.element.encode(value).ok_or(NotInMemory)?;
                let bytes = memory.bytes_mut(place)?;
                bytes.chunks_exact_mut(element.len()).for_each(|place| place.copy_from_slice(&element));
            }
            Initial::Parameter => {
                let parameters = self.layout.parameters.part(part.elements.clone());
                let parameters = memory.bytes(parameters)?.to_vec();
                memory.bytes_mut(place)?.copy_from_slice(&parameters);
            }
        }
        Ok(())
    }
}

/// A round that is neither committed nor rolled back.
pub(crate) struct OpenRound {
    pub(crate) log: UndoLog,
    /// The slice's instance was set up anew in the middle of the round, so that it cannot go on.
    pub(crate) interrupted: bool,
}

/// A slice with its seals and its round.
pub(crate) struct Slice {
    pub(crate) bound: BoundSlice,
    pub(crate) seals: SliceSeals,
    pub(crate) integrity: Integrity,
    pub(crate) round: Option<OpenRound>,
    /// Nobody will name it again; its room goes when its instance is set up anew.
    pub(crate) released: bool,
    /// For as long as the slice is there: its seals, and its share of what its rounds combine.
    charge: Option<Arc<Charge>>,
}

impl Slice {
    /// A slice whose seals there is room for: see [`SliceSeals::count`].
    pub(crate) fn new(bound: BoundSlice, seals: SliceSeals, charge: Arc<Charge>) -> Self {
        let integrity = Integrity::Unsealed;
        Self { bound, seals, integrity, round: None, released: false, charge: Some(charge) }
    }

    /// Whether it is in this placement, and will be named again.
    pub(crate) fn is_in(&self, placement: usize) -> bool {
        self.bound.placement == placement && !self.released
    }

    /// Gives back what it takes: nobody will name the slice again.
    pub(crate) fn release(&mut self) {
        self.released = true;
        self.seals.clear();
        self.integrity = Integrity::Unsealed;
        self.charge = None;
    }

    /// Seals all of a slice as it lies there, after so many calls into the instance.
    pub(crate) fn seal_all(&mut self, memory: &GuestMemory, calls: u64) -> Result<(), NotInMemory> {
        let Self { bound, seals, .. } = self;
        bound.parts().try_for_each(|part| seals.seal(memory, &part))?;
        self.integrity = Integrity::Sealed { unchanged_at: Some(calls) };
        Ok(())
    }

    /// The seals to go by, after so many calls into the instance; `None` where the slice is known to be as it was left.
    pub(crate) fn seals_to_check(&self, calls: u64) -> Option<&SliceSeals> {
        (!self.integrity.is_unchanged(calls)).then_some(&self.seals)
    }

    /// The first part of a slice that is not as it was left, after so many calls into the instance.
    pub(crate) fn broken(&self, memory: &GuestMemory, calls: u64) -> Result<Option<BrokenSeal>, NotInMemory> {
        let Some(seals) = self.seals_to_check(calls) else { return Ok(None) };
        for part in self.bound.parts() {
            if let Err(broken) = seals.verify(memory, &part, CopyTo::Nowhere)? {
                return Ok(Some(broken));
            }
        }
        Ok(None)
    }

    /// The first unit of a part that is not as it was left.
    pub(crate) fn first_broken(&self, memory: &GuestMemory, part: &StatePart) -> Result<Option<usize>, NotInMemory> {
        if part.elements.is_empty() {
            return Ok(None);
        }
        let intact = self.seals.verify(memory, part, CopyTo::Nowhere)?;
        Ok(intact.err().map(|broken| broken.unit))
    }

    /// Everything that belongs to a row alone, its parameters first.
    pub(crate) fn start_row_afresh(&mut self, memory: &mut GuestMemory, row: usize) -> Result<(), NotInMemory> {
        let parts: Vec<_> = self.bound.parts().filter(|part| part.unit.is_some()).collect();
        parts.into_iter().try_for_each(|part| self.start_part_afresh(memory, &part.within(row..row + 1)))
    }

    /// Gives a part its first values, and seals it.
    pub(crate) fn start_part_afresh(&mut self, memory: &mut GuestMemory, part: &StatePart) -> Result<(), NotInMemory> {
        let initial = part.slot.map_or(Initial::Zero, |slot| self.bound.plan.slots[slot].initial);
        self.bound.initialize(memory, part, initial)?;
        self.seals.seal(memory, part)
    }

    /// What to say of something that was changed. What was said first is more than can be said later.
    pub(crate) fn tampering(&self, optimizer: &str, broken: BrokenSeal, found: Found) -> Tampering {
        match &self.integrity {
            Integrity::Tampered { report, .. } if !self.bound.plan.is_of_touched_rows() => (**report).clone(),
            _ => self.bound.tampering(optimizer, broken, found),
        }
    }
}
