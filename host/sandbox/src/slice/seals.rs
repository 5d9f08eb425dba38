//! The seals of one slice: by which the server sees, before it uses anything of the slice, that it is what the slice's own
//! steps and the server have left there.
//!
//! Each chunk of the parameters has a seal, each chunk's share of a slot as well; where rows are told apart it is each row.
//! What all chunks or rows share has one. They lie outside the optimizer's memory.

use std::collections::TryReserveError;
use std::sync::Arc;

use crate::error::{NotInMemory, Tampering};
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
pub(crate) enum Integrity {
    /// What lies there was never sealed: not before it is loaded.
    Unsealed,
    /// It has seals.
    Sealed {
        /// How many calls into the instance there had been when all of the slice was last known to be as it was left:
        /// with no call since, it still is. As long as that is so, seals may be missing: see `Placement::open`.
        unchanged_at: Option<u64>,
    },
    /// It has seals, and something was found to be changed.
    Tampered {
        /// What was found, until the slice is loaded again or goes back to before its round.
        report: Box<Tampering>,
        /// As above, of what was written there since.
        unchanged_at: Option<u64>,
    },
}

impl Integrity {
    /// Whether the slice need not be looked at after so many calls: nobody has called the instance since it was last
    /// known to be as it was left, or nothing was left there yet.
    pub(crate) fn is_unchanged(&self, calls: u64) -> bool {
        match self {
            Self::Unsealed => true,
            Self::Sealed { unchanged_at } | Self::Tampered { unchanged_at, .. } => *unchanged_at == Some(calls),
        }
    }

    /// All of the slice is as it was left, after so many calls; `None` where that is no longer known.
    pub(crate) fn set_unchanged(&mut self, calls: Option<u64>) {
        match self {
            Self::Unsealed => {}
            Self::Sealed { unchanged_at } | Self::Tampered { unchanged_at, .. } => *unchanged_at = calls,
        }
    }

    /// All of the slice was sealed by its own step, which was the last of so many calls if it is as that step has left it.
    pub(crate) fn sealed_by_step(&mut self, calls: Option<u64>) {
        if matches!(self, Self::Unsealed) {
            *self = Self::Sealed { unchanged_at: calls };
        }
    }

    /// All of the slice is what it was before its round, after so many calls.
    pub(crate) fn rolled_back(&mut self, calls: u64) {
        if !matches!(self, Self::Unsealed) {
            *self = Self::Sealed { unchanged_at: Some(calls) };
        }
    }

    /// What was changed is as it was left again.
    pub(crate) fn restored(&mut self) {
        if let Self::Tampered { unchanged_at, .. } = self {
            *self = Self::Sealed { unchanged_at: *unchanged_at };
        }
    }

    /// Something was changed outside the slice's own steps.
    pub(crate) fn tampered(&mut self, report: Tampering) {
        let unchanged_at = match self {
            Self::Unsealed => None,
            Self::Sealed { unchanged_at } | Self::Tampered { unchanged_at, .. } => *unchanged_at,
        };
        *self = Self::Tampered { report: Box::new(report), unchanged_at };
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
    /// None: nobody will name the slice again.
    pub(crate) fn clear(&mut self) {
        self.seals = Vec::new();
    }

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
    pub(crate) fn seal(&mut self, memory: &GuestMemory, part: &StatePart) -> Result<(), NotInMemory> {
        self.seal_looking(memory, part, false, CopyTo::Nowhere).map(|_| ())
    }

    /// Seals a part, copies it, and says whether it is finite if it is to `look` at its `f32`s.
    pub(crate) fn seal_looking(
        &mut self,
        memory: &GuestMemory,
        part: &StatePart,
        look: bool,
        copy: CopyTo<'_>,
    ) -> Result<bool, NotInMemory> {
        let (first, stride, unit_bytes) = self.at(part);
        let seals = Seals::Put { seals: self.seals.get_mut(first..).ok_or(NotInMemory)?, stride };
        let bytes = memory.bytes(part.bytes())?;
        Ok(Visit { key: &self.key, bytes, unit_bytes, look, copy, seals }.run().finite)
    }

    /// Makes sure that a part is what was sealed, and copies it on the way.
    pub(crate) fn verify(
        &self,
        memory: &GuestMemory,
        part: &StatePart,
        copy: CopyTo<'_>,
    ) -> Result<Result<(), BrokenSeal>, NotInMemory> {
        let (first, stride, unit_bytes) = self.at(part);
        let seals = Seals::Compare { seals: self.seals.get(first..).ok_or(NotInMemory)?, stride };
        let bytes = memory.bytes(part.bytes())?;
        let Visited { broken, .. } = Visit { key: &self.key, bytes, unit_bytes, look: false, copy, seals }.run();
        Ok(match broken {
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
