//! What a slice was before a round, so that the round can be taken back.
//!
//! What a round may change is copied before the optimizer is called at all: parameters and slots of the whole slice, or
//! of the rows that are touched. An optimizer that fails may have written anywhere in its slice by then. The log lies
//! outside the guest's reach, and names places by view, so that it holds in another instance too.
//!
//! Copies are memory traffic, and that is what a step costs. So the log copies no parameters where the caller has them
//! anyway, because it has published them ([`Former`]), and it writes slots over workers' gradients that have been used up:
//! they are in the cache, and nothing needs to be fetched, or allocated, to be overwritten.

use std::ops::Range;

use crate::contract::plan::Plan;
use crate::error::NotInMemory;
use crate::instance::memory::GuestMemory;
use crate::slice::layout::Layout;
use crate::slice::parts::{StatePart, parts_of};
use crate::slice::seal::CopyTo;
use crate::slice::seals::{BrokenSeal, SliceSeals};

/// Writes a slice's parameters as they were before the round: raw little-endian `f32`, as many as the slice has.
pub type Former = Box<dyn Fn(&mut [u8]) + Send>;

/// Former contents of parts of a slice.
#[derive(Default)]
pub(crate) struct UndoLog {
    saved: Vec<SavedPart>,
    own: Vec<u8>,
    /// Buffers lent by the caller for as long as the round is open.
    lent: Vec<Vec<u8>>,
    /// Where the parameters are, unless they are among the places.
    parameters: Option<Former>,
}

/// A view of the slice's state, elements of it, and where their former contents are.
struct SavedPart {
    view: usize,
    elements: Range<usize>,
    store: Store,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    /// In the log's own bytes, behind those of the places before.
    Own,
    /// At the start of a lent buffer.
    Lent(usize),
}

impl UndoLog {
    /// Remembers parts of a slice, in place of what was remembered before, and makes sure on the way that they are what
    /// was sealed, where there are seals to go by.
    pub(crate) fn remember(
        &mut self,
        memory: &GuestMemory,
        parts: &[StatePart],
        seals: Option<&SliceSeals>,
    ) -> Result<Result<(), BrokenSeal>, NotInMemory> {
        self.clear();
        // No more than that: growing twofold would keep up to twice the slice.
        self.own.reserve_exact(parts.iter().map(|part| part.bytes().len()).sum());
        self.remember_all(memory, parts, seals)
    }

    /// Remembers all of a slice, whose parameters `former` has, in `lent` buffers as far as they go; otherwise as
    /// [`remember`](Self::remember). The parameters are looked at as well.
    pub(crate) fn remember_slots(
        &mut self,
        memory: &GuestMemory,
        parts: impl Iterator<Item = StatePart>,
        former: Former,
        lent: Vec<Vec<u8>>,
        seals: Option<&SliceSeals>,
    ) -> Result<Result<(), BrokenSeal>, NotInMemory> {
        self.clear();
        self.parameters = Some(former);
        self.lent = lent;
        let mut free: Vec<usize> = (0..self.lent.len()).collect();
        let mut without = Vec::new();
        for part in parts {
            if part.slot.is_none() {
                if let Some(Err(broken)) = verified(seals, memory, &part, CopyTo::Nowhere)? {
                    return Ok(Err(broken));
                }
                continue;
            }
            let bytes = part.bytes();
            // The shortest that is long enough. Small parts would use up a large buffer.
            let long_enough = free.iter().enumerate().filter(|(_, index)| self.lent[**index].len() >= bytes.len());
            let shortest = long_enough.min_by_key(|(_, index)| self.lent[**index].len()).map(|(position, _)| position);
            let Some(position) = shortest.filter(|_| bytes.len() >= SMALLEST_LENT_BYTES) else {
                without.push(part);
                continue;
            };
            let index = free.swap_remove(position);
            let target = &mut self.lent[index][..bytes.len()];
            match verified(seals, memory, &part, CopyTo::Over(target))? {
                Some(Ok(())) => {}
                Some(Err(broken)) => return Ok(Err(broken)),
                None => target.copy_from_slice(memory.bytes(bytes)?),
            }
            self.saved.push(SavedPart { view: part.number(), elements: part.elements, store: Store::Lent(index) });
        }
        self.own.reserve_exact(without.iter().map(|part| part.bytes().len()).sum());
        self.remember_all(memory, &without, seals)
    }

    fn remember_all(
        &mut self,
        memory: &GuestMemory,
        parts: &[StatePart],
        seals: Option<&SliceSeals>,
    ) -> Result<Result<(), BrokenSeal>, NotInMemory> {
        for part in parts {
            match verified(seals, memory, part, CopyTo::Behind(&mut self.own))? {
                Some(Ok(())) => {}
                Some(Err(broken)) => return Ok(Err(broken)),
                None => self.own.extend_from_slice(memory.bytes(part.bytes())?),
            }
            self.place_own(part);
        }
        Ok(Ok(()))
    }

    /// Notes that a part was added to the log's own bytes.
    fn place_own(&mut self, part: &StatePart) {
        let view = part.number();
        match self.saved.last_mut() {
            Some(last) if last.view == view && last.store == Store::Own && last.elements.end == part.elements.start => {
                last.elements.end = part.elements.end;
            }
            _ => self.saved.push(SavedPart { view, elements: part.elements.clone(), store: Store::Own }),
        }
    }

    /// The parts that it can put back.
    pub(crate) fn parts<'a>(&'a self, plan: &'a Plan, layout: &'a Layout) -> impl Iterator<Item = StatePart> {
        let parameters = parts_of(plan, layout).take(usize::from(self.parameters.is_some()));
        let saved = self.saved.iter().filter_map(|SavedPart { view, elements, .. }| {
            Some(parts_of(plan, layout).nth(*view)?.only(elements.clone()))
        });
        parameters.chain(saved)
    }

    /// Puts everything back to where the slice is now.
    pub(crate) fn undo(&self, memory: &mut GuestMemory, layout: &Layout) -> Result<(), NotInMemory> {
        if let Some(former) = &self.parameters {
            former(memory.bytes_mut(layout.parameters.whole())?);
        }
        let mut own = self.own.as_slice();
        for SavedPart { view, elements, store } in &self.saved {
            let place = layout.state().nth(*view).ok_or(NotInMemory)?.part(elements.clone());
            let contents = match store {
                Store::Own => own.split_off(..place.len()).ok_or(NotInMemory)?,
                Store::Lent(index) => self.lent[*index].get(..place.len()).ok_or(NotInMemory)?,
            };
            memory.bytes_mut(place)?.copy_from_slice(contents);
        }
        Ok(())
    }

    /// Gives the lent buffers back. Nothing can be undone any more.
    pub(crate) fn take_lent(&mut self) -> Vec<Vec<u8>> {
        let lent = std::mem::take(&mut self.lent);
        self.clear();
        lent
    }

    fn clear(&mut self) {
        self.saved.clear();
        self.own.clear();
        self.lent.clear();
        self.parameters = None;
    }
}

/// Looks at a part and copies it, where there are seals to go by.
fn verified(
    seals: Option<&SliceSeals>,
    memory: &GuestMemory,
    part: &StatePart,
    copy: CopyTo<'_>,
) -> Result<Option<Result<(), BrokenSeal>>, NotInMemory> {
    match seals {
        Some(seals) => seals.verify(memory, part, copy).map(Some),
        None => Ok(None),
    }
}

/// Parts of fewer bytes go to the log's own memory: slots of rows, columns and runs, next to nothing beside a gradient.
const SMALLEST_LENT_BYTES: usize = 4096;
