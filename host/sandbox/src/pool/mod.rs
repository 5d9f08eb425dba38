//! The instances of one optimizer on one shard thread, and the slices that live in them.

mod integrity;
pub(crate) mod pass;
pub(crate) mod placement;
pub(crate) mod round;

use std::sync::Arc;

use crate::contract::plan::{Plan, TensorDescription};
use crate::contract::settings::Settings;
use crate::error::{CallError, CallFailure, Found, SandboxError};
use crate::instance::Instance;
use crate::instance::component::AdmittedComponent;
use crate::instance::preparation::Preparation;
use crate::limits::CHUNK_ELEMENTS;
use crate::pool::integrity::Patrol;
use crate::pool::placement::{Placement, ScratchRequest, SliceRequest};
use crate::slice::layout::{Layout, View};
use crate::slice::parts::{StatePart, parts_of, state_parts};
use crate::slice::seal::{CopyTo, SealKey};
use crate::slice::seals::{SliceSeals, Watch};
use crate::slice::undo::UndoLog;
use crate::slice::{BoundSlice, initialize_slots, vanished};

/// Names a slice within its [`InstancePool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SliceId(pub(crate) usize);

/// Instances of one deployed optimizer, as many as its slices need: a 32-bit memory holds 4 GiB. A pool belongs to
/// one thread; a tensor's other slices may live in other pools.
///
/// A slice is bound (which makes room), loaded or taken over (which fills it), then goes through rounds
/// (see the methods in `round.rs`).
pub struct InstancePool {
    pub(crate) component: AdmittedComponent,
    pub(crate) placements: Vec<Placement>,
    pub(crate) slices: Vec<BoundSlice>,
    /// One for each slice.
    pub(crate) watches: Vec<Watch>,
    /// There once a slice is bound.
    seal_key: Option<Arc<SealKey>>,
    pub(crate) patrol: Patrol,
    pub(crate) spare_logs: Vec<UndoLog>,
    pub(crate) most_fuel: u64,
}

impl AdmittedComponent {
    /// An empty pool of instances.
    pub fn pool(&self) -> InstancePool {
        InstancePool::new(self.clone())
    }
}

impl InstancePool {
    fn new(component: AdmittedComponent) -> Self {
        Self {
            component,
            placements: Vec::new(),
            slices: Vec::new(),
            watches: Vec::new(),
            seal_key: None,
            patrol: Patrol::new(0),
            spare_logs: Vec::new(),
            most_fuel: 0,
        }
    }

    /// Makes room for `elements` parameters of a tensor, from element `start` on (a multiple of 4096), for their slots
    /// and accumulators. Opens another instance where none has room left.
    ///
    /// # Errors
    /// The optimizer misbehaved, or memory limits are reached. What was bound before keeps its values.
    ///
    /// # Panics
    /// If `elements` is 0, or `start` no multiple of 4096.
    pub fn bind(
        &mut self,
        tensor: &TensorDescription,
        plan: &Arc<Plan>,
        settings: &Settings,
        start: u64,
        elements: u32,
    ) -> Result<SliceId, SandboxError> {
        let preparation = Preparation::new(self.component.limits());
        self.bind_within(tensor, plan, settings, start, elements, &preparation)
    }

    /// As [`bind`](Self::bind), as part of a preparation whose budget other calls share.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind), and where the budget is used up.
    ///
    /// # Panics
    /// As for [`bind`](Self::bind).
    pub fn bind_within(
        &mut self,
        tensor: &TensorDescription,
        plan: &Arc<Plan>,
        settings: &Settings,
        start: u64,
        elements: u32,
        preparation: &Preparation,
    ) -> Result<SliceId, SandboxError> {
        assert!(
            elements > 0 && start.is_multiple_of(u64::from(CHUNK_ELEMENTS)),
            "a slice starts at a chunk, not empty"
        );
        let request = self.request(tensor, plan, settings, start, elements)?;
        let limit = self.component.limits().instance_memory_bytes;
        let overhead = self.component.limits().guest_overhead_bytes;
        let alone = request.most_bytes().saturating_add(plan.work_bytes);
        if alone.saturating_add(overhead) > limit {
            return Err(SandboxError::SliceTooLarge { bytes: alone, limit });
        }
        let open =
            |placement: &Placement| placement.instance.is_alive() && placement.bytes_with(&request) + overhead <= limit;
        let watch = self.watch(plan, &request.layout)?;
        let placement = match self.placements.iter().position(open) {
            Some(placement) => placement,
            None => self.open_placement()?,
        };
        self.seal_open(placement);
        let placed = self.placements[placement].place(self.component.limits(), request, preparation);
        let (handle, layout) = placed.inspect_err(|_| self.abandon_room(placement))?;
        self.watches.push(watch);
        self.slices.push(BoundSlice {
            released: false,
            tensor: tensor.clone(),
            settings: settings.clone(),
            plan: Arc::clone(plan),
            start,
            placement,
            handle,
            layout,
            log: None,
            interrupted: false,
        });
        Ok(SliceId(self.slices.len() - 1))
    }

    /// Gives a slice its first parameters (raw little-endian `f32`, as many as the slice has) and its slots their
    /// first values.
    ///
    /// # Errors
    /// The memory is not there: the optimizer misbehaved.
    ///
    /// # Panics
    /// If `parameters` has another length than the slice.
    pub fn load(&mut self, slice: SliceId, parameters: &[u8]) -> Result<(), SandboxError> {
        let bound = &self.slices[slice.0];
        let memory = self.placements[bound.placement].instance.memory_mut();
        memory.bytes_mut(bound.layout.parameters.whole()).ok_or_else(vanished)?.copy_from_slice(parameters);
        initialize_slots(memory, bound)?;
        self.seal(slice)
    }

    /// Takes parameters over from another optimizer's pool, and its slots' values where `keep_slots` says so and both
    /// have a slot of the same name; other slots get their first values.
    ///
    /// # Errors
    /// What was to be taken over was changed outside its steps, or the memory is not there: the optimizer misbehaved. The
    /// slice has to be [loaded](Self::load) then.
    ///
    /// # Panics
    /// If the two slices differ in length, or slots that are kept in type or extent.
    pub fn take_over(
        &mut self,
        slice: SliceId,
        from: &InstancePool,
        old: SliceId,
        keep_slots: bool,
    ) -> Result<(), SandboxError> {
        let (bound, former) = (&self.slices[slice.0], &from.slices[old.0]);
        let memory = self.placements[bound.placement].instance.memory_mut();
        let parts = |of| state_parts(of).collect::<Vec<_>>();
        let (parts, former_parts) = (parts(bound), parts(former));
        let parameters = memory.bytes_mut(parts[0].bytes()).ok_or_else(vanished)?;
        from.copy_out(old, &former_parts[0], parameters)?;
        initialize_slots(memory, bound)?;
        let kept = bound.plan.slots.iter().zip(&parts[1..]).filter(|_| keep_slots);
        for (slot, part) in kept {
            let former = former.plan.slots.iter().zip(&former_parts[1..]).find(|(other, _)| other.name == slot.name);
            if let Some((_, former)) = former {
                from.copy_out(old, former, memory.bytes_mut(part.bytes()).ok_or_else(vanished)?)?;
            }
        }
        self.seal(slice)
    }

    /// Gives a slice other parameters, as raw little-endian `f32`, and leaves its slots as they are.
    ///
    /// # Errors
    /// The memory is not there: the optimizer misbehaved.
    ///
    /// # Panics
    /// If `parameters` has another length than the slice.
    pub fn write_parameters(&mut self, slice: SliceId, parameters: &[u8]) -> Result<(), SandboxError> {
        let bound = &self.slices[slice.0];
        let memory = self.placements[bound.placement].instance.memory_mut();
        memory.bytes_mut(bound.layout.parameters.whole()).ok_or_else(vanished)?.copy_from_slice(parameters);
        let parameters = state_parts(bound).next().ok_or_else(vanished)?;
        self.watches[slice.0].seals.seal(memory, &parameters).ok_or_else(vanished)
    }

    /// Forgets a slice, which must not be named again. Its room is used again at once if it was alone in its instance,
    /// otherwise when the instance is set up anew, before its next step.
    pub fn release(&mut self, slice: SliceId) {
        self.commit(slice);
        let placement = self.slices[slice.0].placement;
        self.seal_open(placement);
        self.slices[slice.0].released = true;
        self.watches[slice.0].forget();
        self.placements[placement].slices -= 1;
        self.abandon_room(placement);
    }

    /// Copies a slice's parameters out, as raw little-endian `f32`.
    ///
    /// # Errors
    /// They were changed outside the slice's steps, or the memory is not there: the optimizer misbehaved.
    ///
    /// # Panics
    /// If `out` has another length than the slice.
    pub fn read_parameters(&self, slice: SliceId, out: &mut [u8]) -> Result<(), SandboxError> {
        let parameters = state_parts(&self.slices[slice.0]).next().ok_or_else(vanished)?;
        self.copy_out(slice, &parameters, out)
    }

    /// A row of a slice's parameters, as raw little-endian `f32`; its number counts from the slice's first row. `None`
    /// where the slice does not have all of it.
    ///
    /// # Errors
    /// It was changed outside the slice's steps: the optimizer misbehaved.
    pub fn row(&self, slice: SliceId, row: u32) -> Result<Option<&[u8]>, SandboxError> {
        let bound = &self.slices[slice.0];
        let range = || {
            let columns = usize::try_from(bound.plan.geometry.columns).ok()?;
            let start = (row as usize).checked_mul(columns)?;
            let end = start.checked_add(columns).filter(|end| *end <= bound.layout.elements())?;
            Some(start..end)
        };
        let Some(range) = range() else { return Ok(None) };
        let parameters = state_parts(bound).next().ok_or_else(vanished)?;
        let units = parameters.clone().only(range.clone()).units();
        self.check(slice, &parameters.within(units), CopyTo::Nowhere)?;
        Ok(self.placements[bound.placement].instance.memory().bytes(bound.layout.parameters.part(range)))
    }

    /// A slot's bytes, little-endian; `None` where the plan has no slot of that name.
    ///
    /// # Errors
    /// They were changed outside the slice's steps: the optimizer misbehaved.
    pub fn read_slot(&self, slice: SliceId, name: &str) -> Result<Option<&[u8]>, SandboxError> {
        let bound = &self.slices[slice.0];
        let named = |part: &StatePart| part.slot.is_some_and(|slot| bound.plan.slots[slot].name == name);
        let Some(part) = state_parts(bound).find(named) else { return Ok(None) };
        self.check(slice, &part, CopyTo::Nowhere)?;
        Ok(self.placements[bound.placement].instance.memory().bytes(part.bytes()))
    }

    /// Copies a part of a slice's state, once it is known to be as it was left.
    fn copy_out(&self, slice: SliceId, part: &StatePart, out: &mut [u8]) -> Result<(), SandboxError> {
        assert_eq!(out.len(), part.bytes().len(), "as long as what is copied");
        if self.check(slice, part, CopyTo::Over(out))? {
            return Ok(());
        }
        let memory = self.placements[self.slices[slice.0].placement].instance.memory();
        out.copy_from_slice(memory.bytes(part.bytes()).ok_or_else(vanished)?);
        Ok(())
    }

    /// Makes sure that a part is as it was left, and copies it on the way, unless that is known without looking: then it
    /// does neither and returns `false`.
    fn check(&self, slice: SliceId, part: &StatePart, copy: CopyTo<'_>) -> Result<bool, SandboxError> {
        if self.is_unchanged(slice.0) {
            return Ok(false);
        }
        let memory = self.placements[self.slices[slice.0].placement].instance.memory();
        match self.watches[slice.0].seals.verify(memory, part, copy).ok_or_else(vanished)? {
            Ok(()) => Ok(true),
            Err(broken) => Err(self.tampering(slice.0, broken, Found::Reading).into()),
        }
    }

    /// Seals all of a slice as it is: the server has just written it.
    fn seal(&mut self, slice: SliceId) -> Result<(), SandboxError> {
        let bound = &self.slices[slice.0];
        let placement = &mut self.placements[bound.placement];
        placement.open.take_if(|open| *open == slice.0);
        let (memory, calls) = (placement.instance.memory(), placement.instance.calls());
        self.watches[slice.0].seal_all(memory, state_parts(bound), calls).ok_or_else(vanished)
    }

    /// Seals the slice of an instance's last call, if that was put off. The instance must not have been called since.
    pub(crate) fn seal_open(&mut self, placement: usize) {
        if let Some(open) = self.placements[placement].open.take() {
            // It is in the memory: it has just been stepped. If it were not, it would not be found as it was left.
            let sealed = self.seal(SliceId(open));
            debug_assert!(sealed.is_ok());
        }
    }

    /// What is to be known of a slice that is laid out so. Its memory is the server's own, and yet the tensor's shape and the
    /// optimizer's plan decide how much it is: so it is of the budget that they share. So is what rounds combine for the
    /// slice's rows and columns.
    fn watch(&mut self, plan: &Plan, layout: &Layout) -> Result<Watch, SandboxError> {
        let parts: Vec<_> = parts_of(plan, layout).collect();
        let numbers = layout.combined.iter().map(View::elements).sum::<usize>() + SliceSeals::count(&parts);
        let bytes = (numbers * size_of::<u64>()) as u64;
        let charge = self.component.charge(bytes)?;
        let seals = SliceSeals::new(self.seal_key()?, &parts).map_err(|_| {
            let failure = CallFailure::TotalMemory { asked: bytes, limit: self.component.limits().total_memory_bytes };
            CallError { function: "bind", failure }
        })?;
        Ok(Watch::new(seals, charge))
    }

    /// The key of all seals here.
    fn seal_key(&mut self) -> Result<Arc<SealKey>, SandboxError> {
        if let Some(key) = &self.seal_key {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(SealKey::random()?);
        self.patrol = Patrol::new(key.another_secret());
        Ok(Arc::clone(self.seal_key.insert(key)))
    }

    /// Elements of a row of a slice's tensor.
    pub fn columns(&self, slice: SliceId) -> u64 {
        self.slices[slice.0].plan.geometry.columns
    }

    /// Linear memory of all instances, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.placements.iter().map(|placement| placement.instance.memory().len() as u64).sum()
    }

    /// Number of instances.
    pub fn instances(&self) -> usize {
        self.placements.len()
    }

    fn request<'a>(
        &self,
        tensor: &'a TensorDescription,
        plan: &'a Plan,
        settings: &'a Settings,
        start: u64,
        elements: u32,
    ) -> Result<SliceRequest<'a>, SandboxError> {
        let layout = Layout::of(plan, start, elements);
        let scratch = ScratchRequest::of(plan, elements, self.component.block_elements());
        match (layout, scratch.filter(|scratch| scratch.bytes().is_some())) {
            (Some(layout), Some(scratch)) => Ok(SliceRequest { tensor, settings, plan, start, layout, scratch }),
            _ => Err(SandboxError::SliceTooLarge {
                bytes: (f64::from(elements) * plan.bytes_per_parameter()) as u64,
                limit: self.component.limits().instance_memory_bytes,
            }),
        }
    }

    /// A new instance, in the place of one that ended with nothing in it where there is such.
    fn open_placement(&mut self) -> Result<usize, SandboxError> {
        let placement = Placement::new(self.component.instantiate()?);
        let in_use = |index: usize| self.slices.iter().any(|slice| slice.placement == index && !slice.released);
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
    fn abandon_room(&mut self, placement: usize) {
        self.placements[placement].instance.retire();
        let in_use = |placement: usize| self.slices.iter().any(|slice| slice.placement == placement && !slice.released);
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
            (slice.handle, slice.layout) = (handle, layout);
            // It was called for the slices that came after.
            self.watches[index].seen = None;
            // What was combined for its next phase is gone. What it was before its round is not.
            slice.interrupted = slice.log.is_some();
        }
        Ok(())
    }

    /// An instance with the slices of another one and their values. The other is left as it is.
    fn successor(&self, placement: usize, instance: Instance) -> Result<Successor, SandboxError> {
        let mut revived = Placement::new(instance);
        let mut moved = Vec::new();
        let preparation = Preparation::new(self.component.limits());
        for (index, slice) in
            self.slices.iter().enumerate().filter(|(_, slice)| slice.placement == placement && !slice.released)
        {
            let elements = slice.layout.elements() as u32;
            let request = self.request(&slice.tensor, &slice.plan, &slice.settings, slice.start, elements)?;
            let (handle, layout) = revived.place(self.component.limits(), request, &preparation)?;
            let (source, target) = (self.placements[placement].instance.memory(), revived.instance.memory_mut());
            for (old, new) in slice.layout.state().zip(layout.state()) {
                let values = source.bytes(old.whole()).ok_or_else(vanished)?;
                target.bytes_mut(new.whole()).ok_or_else(vanished)?.copy_from_slice(values);
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
