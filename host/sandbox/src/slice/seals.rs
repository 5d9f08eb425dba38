//! The seals of one slice: by which the server sees, before it uses anything of the slice, that it is what the slice's own
//! steps and the server have left there.
//!
//! Each chunk of the parameters has a seal, each chunk's share of a slot as well; where rows are told apart it is each row.
//! What all chunks or rows share has one. They lie outside the optimizer's memory.

use std::collections::TryReserveError;
use std::sync::Arc;

use crate::error::Tampering;
use crate::instance::limiter::Charge;
use crate::instance::memory::GuestMemory;
use crate::slice::parts::StatePart;
use crate::slice::seal::{CopyTo, SealKey, Seals, Visit, Visited};

/// What of a slice is not as it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BrokenSeal {
    /// Number of the part: parameters, then slots.
    pub(crate) part: usize,
    /// The chunk or the row; 0 where the part is one whole.
    pub(crate) unit: usize,
}

/// What is known of a slice's integrity.
pub(crate) struct Watch {
    pub(crate) seals: SliceSeals,
    /// Whether what lies there was ever sealed: not before it is loaded.
    pub(crate) is_sealed: bool,
    /// How many calls into the instance there had been when all of the slice was last known to be as it was left: with no
    /// call since, it still is. With `is_sealed`, and as long as that is so, seals may be missing: see `Placement::open`.
    pub(crate) seen: Option<u64>,
    /// What was found, until the slice is loaded again or goes back to before its round.
    pub(crate) reported: Option<Box<Tampering>>,
    /// For as long as the slice is there: its seals, and its share of what its rounds combine.
    _charge: Option<Arc<Charge>>,
}

impl Watch {
    /// For a slice whose seals there is room for: see [`SliceSeals::count`].
    pub(crate) fn new(seals: SliceSeals, charge: Arc<Charge>) -> Self {
        Self { seals, is_sealed: false, seen: None, reported: None, _charge: Some(charge) }
    }

    /// Gives back what it takes: nobody will name the slice again.
    pub(crate) fn forget(&mut self) {
        (self.seals.seals, self.is_sealed) = (Vec::new(), false);
        self._charge = None;
    }

    /// Seals all of a slice as it lies there, after so many calls into the instance.
    pub(crate) fn seal_all(
        &mut self,
        memory: &GuestMemory,
        mut parts: impl Iterator<Item = StatePart>,
        calls: u64,
    ) -> Option<()> {
        parts.try_for_each(|part| self.seals.seal(memory, &part))?;
        (self.is_sealed, self.seen, self.reported) = (true, Some(calls), None);
        Some(())
    }
}

/// A slice's seals.
pub(crate) struct SliceSeals {
    key: Arc<SealKey>,
    /// Unit after unit, those of its parts next to each other: a row that is touched needs one line of the cache. Then
    /// those of the parts that are not in units.
    seals: Vec<u64>,
    /// For each part its first seal, and how far apart they are.
    places: Vec<(usize, usize)>,
}

impl SliceSeals {
    /// How many there are for these parts, each whole.
    pub(crate) fn count(parts: &[StatePart]) -> usize {
        let (apart, units) = Self::in_units(parts);
        units * apart + parts.len() - apart
    }

    /// The parts that are in units, and units of the one that has most.
    fn in_units(parts: &[StatePart]) -> (usize, usize) {
        let units = || parts.iter().filter(|part| part.unit.is_some()).map(|part| part.units().end);
        (units().count(), units().max().unwrap_or(0))
    }

    /// For these parts, each whole. Nothing is sealed yet.
    ///
    /// # Errors
    /// The system has no memory for them.
    pub(crate) fn new(key: Arc<SealKey>, parts: &[StatePart]) -> Result<Self, TryReserveError> {
        let (apart, units) = Self::in_units(parts);
        let (mut beside, mut behind) = (0.., units * apart..);
        let places: Vec<_> = parts
            .iter()
            .filter_map(|part| Some(if part.unit.is_some() { (beside.next()?, apart) } else { (behind.next()?, 1) }))
            .collect();
        let mut seals = Vec::new();
        seals.try_reserve_exact(behind.start)?;
        seals.resize(behind.start, 0);
        Ok(Self { key, seals, places })
    }

    /// Seals what lies there now.
    pub(crate) fn seal(&mut self, memory: &GuestMemory, part: &StatePart) -> Option<()> {
        self.seal_looking(memory, part, false, CopyTo::Nowhere).map(|_| ())
    }

    /// Seals a part, copies it, and says whether it is finite if it is to `look` at its `f32`s. `None` where it is not
    /// in the memory.
    pub(crate) fn seal_looking(
        &mut self,
        memory: &GuestMemory,
        part: &StatePart,
        look: bool,
        copy: CopyTo<'_>,
    ) -> Option<bool> {
        let (first, stride, unit_bytes) = self.at(part);
        let seals = Seals::Put { seals: self.seals.get_mut(first..)?, stride };
        let bytes = memory.bytes(part.bytes())?;
        Some(Visit { key: &self.key, bytes, unit_bytes, look, copy, seals }.run().finite)
    }

    /// Makes sure that a part is what was sealed, and copies it on the way. `None` where it is not in the memory.
    pub(crate) fn verify(
        &self,
        memory: &GuestMemory,
        part: &StatePart,
        copy: CopyTo<'_>,
    ) -> Option<Result<(), BrokenSeal>> {
        let (first, stride, unit_bytes) = self.at(part);
        let seals = Seals::Compare { seals: self.seals.get(first..)?, stride };
        let bytes = memory.bytes(part.bytes())?;
        let Visited { broken, .. } = Visit { key: &self.key, bytes, unit_bytes, look: false, copy, seals }.run();
        Some(match broken {
            None => Ok(()),
            Some(unit) => Err(BrokenSeal { part: part.number(), unit: part.units().start + unit }),
        })
    }

    /// Where the seals of a part's elements are, which start with a unit: the first, how far apart, bytes of each.
    fn at(&self, part: &StatePart) -> (usize, usize, usize) {
        let (first, stride) = self.places[part.number()];
        let unit = part.unit.unwrap_or(part.elements.len().max(1));
        debug_assert!(part.elements.start.is_multiple_of(unit), "whole units");
        (first + part.units().start * stride, stride, unit * part.element.bytes() as usize)
    }
}
