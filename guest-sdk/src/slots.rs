//! Typed views of slots, and of what accumulators hold.

use std::ops::Range;

use crate::accumulator::{Accumulator, Scope};
use crate::cast;
use crate::plan::{Granularity, Plan};
use crate::slot::{Element, Extent, Slot};

/// From where a slot is looked at, which decides what may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Begin,
    Step,
}

/// Views of the plan's slots: in `begin`, those that a slice has a copy of (per row, per column, scalar); in `step`, what
/// belongs to the block.
#[derive(Debug)]
pub struct Slots<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) stage: Stage,
    /// In the order of [`Plan::stored_slots`].
    pub(crate) views: Vec<&'a mut [u8]>,
}

impl Slots<'_> {
    /// The values of a slot.
    ///
    /// # Errors
    /// It is not in the plan, of another type, or not there in `begin`.
    pub fn read<T: Element>(&self, slot: Slot) -> Result<&[T], String> {
        let position = self.position::<T>(&slot)?;
        Ok(cast::elements(&*self.views[position]))
    }

    /// The values of a slot, to be changed.
    ///
    /// # Errors
    /// As for [`read`](Self::read), or the slot is not written at this stage: per row, per column and scalar slots are
    /// written in `begin`, so that every slice's copy is the same; all others in `step`. A tensor that is visited whole
    /// has them all written in `step` too, and touched rows their per-row slots.
    pub fn write<T: Element>(&mut self, slot: Slot) -> Result<&mut [T], String> {
        let [values] = self.write_all([slot])?;
        Ok(values)
    }

    /// Several slots of one type at once.
    ///
    /// # Errors
    /// As for [`write`](Self::write), or one is named twice.
    pub fn write_all<T: Element, const N: usize>(&mut self, slots: [Slot; N]) -> Result<[&mut [T]; N], String> {
        let mut positions = [0; N];
        for (position, slot) in positions.iter_mut().zip(&slots) {
            *position = self.position::<T>(slot)?;
            self.check_writable(slot)?;
        }
        let views = self.views.get_disjoint_mut(positions).map_err(|_| "a slot is asked for twice".to_string())?;
        Ok(views.map(|view| cast::elements_mut(view)))
    }

    /// Two slots of different types at once.
    ///
    /// # Errors
    /// As for [`write_all`](Self::write_all).
    pub fn write_both<A: Element, B: Element>(&mut self, a: Slot, b: Slot) -> Result<(&mut [A], &mut [B]), String> {
        let positions = [self.position::<A>(&a)?, self.position::<B>(&b)?];
        self.check_writable(&a)?;
        self.check_writable(&b)?;
        let [a, b] = self.views.get_disjoint_mut(positions).map_err(|_| "a slot is asked for twice".to_string())?;
        Ok((cast::elements_mut(a), cast::elements_mut(b)))
    }

    fn position<T: Element>(&self, slot: &Slot) -> Result<usize, String> {
        let (position, planned) = self.plan.find(slot)?;
        if planned.element != T::TYPE {
            return Err(format!("slot {} holds {:?}, not {:?}", slot.name, planned.element, T::TYPE));
        }
        if self.stage == Stage::Begin && !planned.extent.is_shared() {
            return Err(format!("slot {} is there in step, not in begin", slot.name));
        }
        Ok(position)
    }

    pub(crate) fn check_writable(&self, slot: &Slot) -> Result<(), String> {
        let (_, planned) = self.plan.find(slot)?;
        if self.stage == Stage::Begin || is_written_in_step(self.plan, planned.extent) {
            return Ok(());
        }
        Err(format!("slot {} has a copy in every slice and is written in begin only", slot.name))
    }
}

/// Whether a slot of this extent may be written in `step`.
pub(crate) fn is_written_in_step(plan: &Plan, extent: Extent) -> bool {
    match plan.granularity {
        Granularity::Tensor => true,
        Granularity::TouchedRows => !extent.is_shared() || extent == Extent::PerRow,
        Granularity::Elements => !extent.is_shared(),
    }
}

/// What `begin` finds: combined accumulators, and the slots it may write.
#[derive(Debug)]
pub struct Shared<'a> {
    /// Accumulators that are complete.
    pub combined: Combined<'a>,
    /// The slots that are per row, per column or scalar.
    pub slots: Slots<'a>,
    /// The tensor's rows that this slice has a part of: those of per-row slots and accumulators. What `begin` writes
    /// for a row must not depend on the slice.
    pub rows: Range<u64>,
}

/// Accumulators that are complete.
#[derive(Debug)]
pub struct Combined<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) phase: usize,
    /// In the plan's order.
    pub(crate) views: Vec<&'a [f64]>,
}

impl Combined<'_> {
    /// The number of an accumulator of a tensor, a group or the model.
    ///
    /// # Errors
    /// It is not in the plan, by row or column, or not complete before this phase.
    pub fn number(&self, accumulator: Accumulator) -> Result<f64, String> {
        let values = self.values(accumulator)?;
        match (self.plan.accumulators[self.plan.find_accumulator(&accumulator)?].scope, values) {
            (Scope::Tensor | Scope::Group | Scope::Model, [number]) => Ok(*number),
            _ => Err(format!("accumulator {} holds more than one number", accumulator.name)),
        }
    }

    /// The numbers of an accumulator: of the slice's rows, of all columns, or the only one.
    ///
    /// # Errors
    /// It is not in the plan, or not complete before this phase.
    pub fn values(&self, accumulator: Accumulator) -> Result<&[f64], String> {
        let position = self.plan.find_accumulator(&accumulator)?;
        let first = self.plan.accumulators[position].first_read();
        if self.phase < first {
            return Err(format!("accumulator {} is read from phase {first} on", accumulator.name));
        }
        Ok(self.views[position])
    }
}
