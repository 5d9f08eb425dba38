//! Typed views of slots and of combined accumulators.

use std::ops::Range;

use crate::accumulator::{Accumulator, Scope};
use crate::cast;
use crate::plan::{Granularity, Plan};
use crate::slot::{Element, Extent, Slot};

/// The call that accesses a slot, which determines what may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Begin,
    Step,
}

/// Views of the plan's slots. In `begin`, these are the slots of which each slice has a copy (per row, per column,
/// scalar); in `step`, the parts that belong to the block.
#[derive(Debug)]
pub struct Slots<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) stage: Stage,
    /// In the order of [`Plan::stored_slots`].
    pub(crate) views: Vec<&'a mut [u8]>,
}

impl Slots<'_> {
    /// The values of a slot, in the order of its elements.
    ///
    /// # Errors
    /// The slot is not in the plan, has another type, or is not available in `begin`.
    pub fn read<T: Element>(&self, slot: Slot) -> Result<&[T], String> {
        let position = self.position::<T>(&slot)?;
        Ok(cast::elements(&*self.views[position]))
    }

    /// The values of a slot, mutable.
    ///
    /// # Errors
    /// As for [`read`](Self::read), or the slot may not be written in this call. Per-row, per-column and scalar slots
    /// are written in `begin`, so that the copies of all slices are equal; all other slots are written in `step`. If
    /// the tensor is visited whole, `step` may write all slots; if touched rows are visited, `step` may also write
    /// per-row slots.
    pub fn write<T: Element>(&mut self, slot: Slot) -> Result<&mut [T], String> {
        let [values] = self.write_all([slot])?;
        Ok(values)
    }

    /// The values of several slots of one type, mutable.
    ///
    /// # Errors
    /// As for [`write`](Self::write), or a slot is named twice.
    pub fn write_all<T: Element, const N: usize>(&mut self, slots: [Slot; N]) -> Result<[&mut [T]; N], String> {
        let mut positions = [0; N];
        for (position, slot) in positions.iter_mut().zip(&slots) {
            *position = self.position::<T>(slot)?;
            self.check_writable(slot)?;
        }
        let views = self.views.get_disjoint_mut(positions).map_err(|_| "a slot is asked for twice".to_string())?;
        Ok(views.map(|view| cast::elements_mut(view)))
    }

    /// The values of two slots of different types, mutable.
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

/// Whether `step` may write a slot of this extent.
pub(crate) fn is_written_in_step(plan: &Plan, extent: Extent) -> bool {
    match plan.granularity {
        Granularity::Tensor => true,
        Granularity::TouchedRows => !extent.is_shared() || extent == Extent::PerRow,
        Granularity::Elements => !extent.is_shared(),
    }
}

/// What `begin` receives: combined accumulators, and the slots it may write.
#[derive(Debug)]
pub struct Shared<'a> {
    /// The accumulators that are complete before this phase.
    pub combined: Combined<'a>,
    /// The per-row, per-column and scalar slots.
    pub slots: Slots<'a>,
    /// The rows of the tensor that this slice overlaps; per-row slots and accumulators cover the same rows. What
    /// `begin` writes for a row must not depend on the slice.
    pub rows: Range<u64>,
}

/// The combined values of the accumulators that are complete before this phase.
#[derive(Debug)]
pub struct Combined<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) phase: usize,
    /// In the plan's order.
    pub(crate) views: Vec<&'a [f64]>,
}

impl Combined<'_> {
    /// The combined value of an accumulator over a tensor, a group or the model.
    ///
    /// # Errors
    /// The accumulator is not in the plan, has one value per row or column, or is not complete before this phase.
    pub fn number(&self, accumulator: Accumulator) -> Result<f64, String> {
        let values = self.values(accumulator)?;
        match (self.plan.accumulators[self.plan.find_accumulator(&accumulator)?].scope, values) {
            (Scope::Tensor | Scope::Group | Scope::Model, [number]) => Ok(*number),
            _ => Err(format!("accumulator {} holds more than one number", accumulator.name)),
        }
    }

    /// The combined values of an accumulator: one for each row of the slice, one for each column, or a single one.
    ///
    /// # Errors
    /// The accumulator is not in the plan, or is not complete before this phase.
    pub fn values(&self, accumulator: Accumulator) -> Result<&[f64], String> {
        let position = self.plan.find_accumulator(&accumulator)?;
        let first = self.plan.accumulators[position].first_read();
        if self.phase < first {
            return Err(format!("accumulator {} is read from phase {first} on", accumulator.name));
        }
        Ok(self.views[position])
    }
}
