//! A round of a slice in its pool: what may change is remembered, the optimizer runs, and what it did is kept or taken
//! back.
//!
//! A plan of one pass goes through [`InstancePool::exchange`] on a server, and through [`InstancePool::step`] where
//! gradients are not the caller's to give away. Others go through [`InstancePool::statistics`] and
//! [`InstancePool::phase`] for each phase in turn, with the accumulators combined over the tensor's slices in between.
//! Touched rows go through [`InstancePool::step_rows`]. After any error the slice is bit for bit what it was before the
//! round; after success, [`InstancePool::commit`] keeps the round and [`InstancePool::roll_back`] takes it back. A round
//! that ends in neither, since the task that ran it has died, is taken back when the next one begins.

use std::sync::Arc;

use crate::contract::accumulators::{Accumulators, Contributions};
use crate::contract::context::StepContext;
use crate::contract::declarations::Granularity;
use crate::error::{Found, NotInMemory, StepError};
use crate::pool::InstancePool;
use crate::pool::pass::{GradientSource, Pass};
use crate::pool::placement::Placement;
use crate::slice::parts::RowsApart;
use crate::slice::seals::Integrity;
use crate::slice::undo::{Former, UndoLog};
use crate::slice::{OpenRound, Slice, SliceId};

/// Undo logs whose room is kept between rounds: enough for the slices that a shard thread has of a tensor of 256 Mi
/// parameters. There are never more than were open at the same time; most of an exchange's log is in gradients' memory.
const SPARE_LOGS: usize = 1024;

/// Adds gradients up: into as many elements as the slice has. `Err` where the result is not finite.
pub type Aggregate<'a> = dyn FnMut(&[Vec<u8>], &mut [f32]) -> Result<(), StepError> + 'a;

/// What a slice and the server exchange in a round of one pass.
pub struct Exchange<'a> {
    /// The workers' gradients of the slice, in buffers of this round alone. Once they are added up the first that is as
    /// long as the parameters takes the new ones, and others what slots were before: for each slot of four bytes an
    /// element, one that is as long is needed for no copy to be made elsewhere.
    pub gradients: Vec<Vec<u8>>,
    /// Adds gradients up into the optimizer's memory. `Err` where the result is not finite.
    pub aggregate: &'a mut Aggregate<'a>,
    /// The parameters as they are, in case the round is taken back.
    pub former: Former,
}

impl InstancePool {
    /// A whole round of a slice whose plan is one pass: asks `gradient` for block after block and runs the optimizer
    /// on each.
    ///
    /// # Errors
    /// The optimizer failed. The slice's parameters and slots are bit for bit what they were before.
    ///
    /// # Panics
    /// If the plan has several phases or accumulators.
    pub fn step(
        &mut self,
        slice: SliceId,
        context: &StepContext,
        gradient: &mut GradientSource<'_>,
    ) -> Result<(), StepError> {
        let bound = &self.slices[slice.0].bound;
        let (plan, elements) = (Arc::clone(&bound.plan), bound.elements());
        assert!(plan.is_one_pass(), "a plan of several passes runs phase by phase");
        self.open_round(slice, None)?;
        self.turn(slice, elements, context.step, |pass| pass.phase(0, context, &mut Accumulators::new(plan), gradient))
            .map(|_| ())
    }

    /// A whole round of a slice whose plan is one pass and that is no longer than a block, at the lowest cost: workers'
    /// gradients go in, new parameters come out, and the memory of the ones becomes that of the others. See [`Exchange`].
    ///
    /// [`InstancePool::commit`] returns the gradients' other buffers.
    ///
    /// # Errors
    /// The optimizer failed. The slice's parameters and slots are bit for bit what they were before.
    ///
    /// # Panics
    /// If the plan has several phases or accumulators, or the slice is longer than a block.
    pub fn exchange(
        &mut self,
        slice: SliceId,
        context: &StepContext,
        exchange: Exchange<'_>,
    ) -> Result<Vec<u8>, StepError> {
        let Exchange { mut gradients, aggregate, former } = exchange;
        let bound = &self.slices[slice.0].bound;
        let elements = bound.elements();
        assert!(bound.plan.is_one_pass(), "a plan of several passes runs phase by phase");
        assert!(self.takes_exchange(slice), "the slice is longer than a block");
        self.roll_back(slice);
        self.revive(self.slices[slice.0].bound.placement).map_err(StepError::not_revived)?;

        // The gradient first: its buffers are free then, and nothing has been changed if it is not finite.
        self.write_whole_gradient(slice, &gradients, aggregate)?;
        let out = gradients.iter().position(|buffer| buffer.len() == elements * size_of::<f32>());
        let mut out = out.map(|index| gradients.swap_remove(index)).unwrap_or_default();
        out.resize(elements * size_of::<f32>(), 0);

        let mut log = self.spare_logs.pop().unwrap_or_default();
        let (checked, Placement { instance, .. }) = self.at(slice);
        let seals = checked.seals_to_check(instance.calls());
        let parts = checked.bound.parts();
        let remembered = log.remember_slots(instance.memory(), parts, former, gradients, seals)?;
        remembered.map_err(|broken| self.caught(slice, broken, Found::BeforeStep))?;
        self.opened(slice, log);

        let (_, placement) = self.at_mut(slice);
        // Who lives alone need not be sealed before somebody else comes.
        let is_alone = placement.slices == 1;
        placement.open.take_if(|open| *open == slice);
        self.turn(slice, elements, context.step, |pass| {
            pass.whole_slice(context)?;
            pass.read_out(&mut out, !is_alone)?;
            Ok(Contributions::default())
        })?;
        let (_, placement) = self.at_mut(slice);
        placement.open = is_alone.then_some(slice);
        Ok(out)
    }

    /// [`exchange`](Self::exchange) without what makes it safe: nothing is remembered, nothing that comes out is looked at
    /// or copied. For measurements of what that costs; after a failure the slice is whatever the optimizer has left.
    ///
    /// # Errors
    /// The optimizer failed.
    ///
    /// # Panics
    /// As for [`exchange`](Self::exchange).
    pub fn step_unprotected(
        &mut self,
        slice: SliceId,
        context: &StepContext,
        gradients: &[Vec<u8>],
        aggregate: &mut Aggregate<'_>,
    ) -> Result<(), StepError> {
        assert!(self.takes_exchange(slice), "a plan of one pass, in a slice no longer than a block");
        self.write_whole_gradient(slice, gradients, aggregate)?;
        self.seal_open(self.slices[slice.0].bound.placement);
        // From here on the slice is whatever it is.
        self.slices[slice.0].integrity = Integrity::Unsealed;
        self.pass(slice, |pass| pass.whole_slice(context).map(|()| Contributions::default())).map(|_| ())
    }

    /// Aggregates the gradient of a slice that is no longer than a block into the scratch.
    fn write_whole_gradient(
        &mut self,
        slice: SliceId,
        gradients: &[Vec<u8>],
        aggregate: &mut Aggregate<'_>,
    ) -> Result<(), StepError> {
        let (Slice { bound, .. }, placement) = self.at_mut(slice);
        let scratch = placement.scratch()?;
        if bound.elements() > scratch.elements as usize {
            return Err(NotInMemory.into());
        }
        let memory = placement.instance.memory_mut();
        let target = memory.floats_mut(scratch.gradient as usize, bound.elements())?;
        aggregate(gradients, target)
    }

    /// Whether [`exchange`](Self::exchange) can be used: the plan [allows for it](crate::Plan::takes_exchange), and the
    /// slice is no longer than a block or visited whole.
    pub fn takes_exchange(&self, slice: SliceId) -> bool {
        let bound = &self.slices[slice.0].bound;
        let in_a_block = bound.elements() <= self.component.block_elements() as usize;
        bound.plan.takes_exchange() && (in_a_block || bound.plan.granularity == Granularity::Tensor)
    }

    /// Gathers what the server itself contributes to accumulators that `phase` is the first to read. Changes nothing.
    ///
    /// # Errors
    /// The gradient is not finite. The slice is what it was before the round.
    pub fn statistics(
        &mut self,
        slice: SliceId,
        phase: u32,
        gradient: &mut GradientSource<'_>,
    ) -> Result<Contributions, StepError> {
        if phase == 0 {
            self.open_round(slice, None)?;
        } else {
            self.check_uninterrupted(slice)?;
        }
        self.pass(slice, |pass| pass.statistics(phase, gradient)).map(|(contributions, _)| contributions)
    }

    /// Runs one phase. Phases of a round run in order, from 0 on.
    ///
    /// Accumulators of rows and columns take up what the optimizer contributes at once, so that a tensor's slices must
    /// come one after the other with the same `accumulators`; what is contributed to others is returned, for
    /// [`Accumulators::add`].
    ///
    /// # Errors
    /// The optimizer failed. The slice is what it was before the round.
    pub fn phase(
        &mut self,
        slice: SliceId,
        phase: u32,
        context: &StepContext,
        accumulators: &mut Accumulators,
        gradient: &mut GradientSource<'_>,
    ) -> Result<Contributions, StepError> {
        let elements = self.slices[slice.0].bound.elements();
        // The server's own statistics have opened the round already, where there are any.
        if phase == 0 && !self.slices[slice.0].bound.plan.gathers_before(0) {
            self.open_round(slice, None)?;
        } else {
            self.check_uninterrupted(slice)?;
        }
        self.turn(slice, elements, context.step, |pass| pass.phase(phase, context, accumulators, gradient))
    }

    /// A round that visits these rows of a slice only, counted from its first row, in ascending order without
    /// repetition. `gradient` is asked for elements of the listed rows, one row after the other without gaps.
    ///
    /// # Errors
    /// The optimizer failed. The slice is what it was before.
    pub fn step_rows(
        &mut self,
        slice: SliceId,
        rows: &[u32],
        context: &StepContext,
        gradient: &mut GradientSource<'_>,
    ) -> Result<(), StepError> {
        debug_assert!(rows.is_sorted_by(|row, next| row < next), "ascending, without repetition");
        self.open_round(slice, Some(rows))?;
        let elements = rows.len() * self.slices[slice.0].bound.plan.geometry.columns as usize;
        self.turn(slice, elements, context.step, |pass| {
            pass.rows(rows, context, gradient).map(|()| Contributions::default())
        })
        .map(|_| ())
    }

    /// The weights to evaluate a model with, as the plan's phase of that purpose computes them: raw little-endian
    /// `f32`. Changes nothing. `context` is that of the last round.
    ///
    /// # Errors
    /// The optimizer failed.
    ///
    /// # Panics
    /// If the plan has no such phase, or `out` another length than the slice.
    pub fn evaluate(&mut self, slice: SliceId, context: &StepContext, out: &mut [u8]) -> Result<(), StepError> {
        let Some(phase) = self.slices[slice.0].bound.plan.evaluation_phase() else {
            panic!("the plan has no phase of purpose evaluation");
        };
        self.open_round(slice, None)?;
        let elements = self.slices[slice.0].bound.elements();
        let evaluated = self.turn(slice, elements, context.step, |pass| {
            pass.evaluation(phase, context, out).map(|()| Contributions::default())
        });
        // Whatever the optimizer did to parameters and slots.
        self.roll_back(slice);
        evaluated.map(|_| ())
    }

    /// Keeps the last round of a slice. Without this it is taken back when the next one begins.
    /// Returns the buffers that [`InstancePool::exchange`] was lent for it.
    pub fn commit(&mut self, slice: SliceId) -> Vec<Vec<u8>> {
        match self.slices[slice.0].round.take() {
            Some(OpenRound { log, .. }) => self.keep_log(log),
            None => Vec::new(),
        }
    }

    /// Takes the last round of a slice back, if it was not committed: another slice of the same tensor failed.
    /// Returns the buffers that [`InstancePool::exchange`] was lent for it.
    pub fn roll_back(&mut self, slice: SliceId) -> Vec<Vec<u8>> {
        let (slice_of_round, placement) = self.at_mut(slice);
        let Some(OpenRound { log, .. }) = slice_of_round.round.take() else { return Vec::new() };
        let Slice { bound, seals, integrity, .. } = slice_of_round;
        let memory = placement.instance.memory_mut();
        // The memory cannot have shrunk, so what was read from it can be written back.
        let undone = log.undo(memory, &bound.layout);
        // It was as it should be when it was remembered.
        let sealed = log.parts(&bound.plan, &bound.layout).try_for_each(|part| seals.seal(memory, &part));
        debug_assert!(undone.is_ok() && sealed.is_ok());
        if !bound.plan.is_of_touched_rows() {
            // That is all of the slice.
            integrity.rolled_back(placement.instance.calls());
            placement.open.take_if(|open| *open == slice);
        }
        self.keep_log(log)
    }

    /// The most fuel that a call of `step` used since this was asked last.
    pub(crate) fn take_most_fuel(&mut self) -> u64 {
        std::mem::take(&mut self.most_fuel)
    }

    /// Remembers what a round may change: all of the slice, or these rows.
    fn open_round(&mut self, slice: SliceId, rows: Option<&[u32]>) -> Result<(), StepError> {
        self.roll_back(slice);
        self.revive(self.slices[slice.0].bound.placement).map_err(StepError::not_revived)?;
        let mut log = self.spare_logs.pop().unwrap_or_default();
        let (checked, Placement { instance, .. }) = self.at(slice);
        let bound = &checked.bound;
        let shared = bound.parts().filter(|part| rows.is_none() || part.rows_apart == RowsApart::Shared);
        let parts: Vec<_> = shared.chain(rows.into_iter().flat_map(|rows| bound.touched(rows))).collect();
        let calls = instance.calls();
        let remembered = log.remember(instance.memory(), &parts, checked.seals_to_check(calls))?;
        remembered.map_err(|broken| self.caught(slice, broken, Found::BeforeStep))?;
        if rows.is_none() {
            self.slices[slice.0].integrity.set_unchanged(Some(calls));
        }
        self.opened(slice, log);
        Ok(())
    }

    /// A round can be taken back from now on.
    fn opened(&mut self, slice: SliceId, log: UndoLog) {
        self.slices[slice.0].round = Some(OpenRound { log, interrupted: false });
    }

    /// Makes sure that a round can go on: an instance that ended in between, in another key's step, has taken with it what
    /// was combined for this round.
    fn check_uninterrupted(&mut self, slice: SliceId) -> Result<(), StepError> {
        let (Slice { round, .. }, placement) = self.at(slice);
        if round.as_ref().is_some_and(|round| !round.interrupted) && placement.instance.is_alive() {
            return Ok(());
        }
        self.roll_back(slice);
        Err(StepError::Interrupted)
    }

    /// Calls the optimizer for a slice; takes the round back where that fails, or where others are found to be changed.
    fn turn(
        &mut self,
        slice: SliceId,
        elements: usize,
        step: u64,
        run: impl FnOnce(&mut Pass<'_>) -> Result<Contributions, StepError>,
    ) -> Result<Contributions, StepError> {
        let placement = self.slices[slice.0].bound.placement;
        self.seal_open(placement);
        let (contributions, calls) = self.pass(slice, run).inspect_err(|error| match error {
            StepError::Call(_) | StepError::NotFinite { .. } => self.examine(slice, step),
            StepError::Tampered(tampering) => {
                tracing::error!(%tampering, "an optimizer's instance has ended");
                self.placements[placement].instance.retire();
            }
            _ => {}
        })?;
        let Slice { bound, integrity, .. } = &mut self.slices[slice.0];
        if !bound.plan.is_of_touched_rows() {
            integrity.sealed_by_step(calls);
        }
        match self.patrol(slice, elements, step) {
            Ok(()) => Ok(contributions),
            Err(error) => {
                self.roll_back(slice);
                Err(error)
            }
        }
    }

    /// Runs something over a slice; takes the round back where it fails. Also returns how many calls into the instance
    /// there have been by then, where all of the slice was looked at since the last one.
    fn pass(
        &mut self,
        slice: SliceId,
        run: impl FnOnce(&mut Pass<'_>) -> Result<Contributions, StepError>,
    ) -> Result<(Contributions, Option<u64>), StepError> {
        let Slice { bound, seals, integrity, .. } = &mut self.slices[slice.0];
        let placement = &mut self.placements[bound.placement];
        let is_unchanged = integrity.is_unchanged(placement.instance.calls());
        let mut pass = Pass {
            component: &self.component,
            placement,
            slice: bound,
            seals,
            is_unchanged,
            is_looked_through: false,
            most_fuel: 0,
        };
        let result = run(&mut pass);
        self.most_fuel = self.most_fuel.max(pass.most_fuel);
        let calls = pass.is_looked_through.then(|| pass.placement.instance.calls());
        match result {
            Ok(contributions) => {
                if calls.is_some() {
                    integrity.set_unchanged(calls);
                }
                Ok((contributions, calls))
            }
            Err(error) => {
                self.roll_back(slice);
                Err(error)
            }
        }
    }

    /// Keeps a log's room for the next round. A key's slices have their logs at the same time, and usually as many the
    /// next time.
    fn keep_log(&mut self, mut log: UndoLog) -> Vec<Vec<u8>> {
        let lent = log.take_lent();
        if self.spare_logs.len() < SPARE_LOGS {
            self.spare_logs.push(log);
        }
        lent
    }
}
