//! The instances of one optimizer on one shard thread, and the slices that live in them.

mod integrity;
pub(crate) mod pass;
mod patrol;
pub(crate) mod placement;
mod renewal;
pub(crate) mod round;

use std::sync::Arc;

use crate::contract::plan::Plan;
use crate::contract::settings::Settings;
use crate::contract::tensor::TensorDescription;
use crate::error::{CallError, CallFailure, Found, NotInMemory, SandboxError};
use crate::instance::component::AdmittedComponent;
use crate::instance::limiter::Charge;
use crate::instance::preparation::Preparation;
use crate::limits::CHUNK_ELEMENTS;
use crate::pool::patrol::Patrol;
use crate::pool::placement::{Placement, ScratchRequest, SliceRequest};
use crate::slice::layout::{Layout, View};
use crate::slice::parts::{StatePart, parts_of};
use crate::slice::seal::{CopyTo, SealKey};
use crate::slice::seals::SliceSeals;
use crate::slice::undo::UndoLog;
use crate::slice::{BoundSlice, Slice, SliceId};

/// Instances of one deployed optimizer, as many as its slices need: a 32-bit memory holds 4 GiB. A pool belongs to
/// one thread; a tensor's other slices may live in other pools.
///
/// A slice is bound (which makes room), loaded or taken over (which fills it), then goes through rounds
/// (see the methods in `round.rs`).
pub struct InstancePool {
    pub(crate) component: AdmittedComponent,
    pub(crate) placements: Vec<Placement>,
    pub(crate) slices: Vec<Slice>,
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
        let (seals, charge) = self.seals_for(plan, &request.layout)?;
        let placement = match self.placements.iter().position(open) {
            Some(placement) => placement,
            None => self.open_placement()?,
        };
        self.seal_open(placement);
        let placed = self.placements[placement].place(self.component.limits(), request, preparation);
        let (handle, layout) = placed.inspect_err(|_| self.abandon_room(placement))?;
        let bound = BoundSlice {
            tensor: tensor.clone(),
            settings: settings.clone(),
            plan: Arc::clone(plan),
            start,
            placement,
            handle,
            layout,
        };
        self.slices.push(Slice::new(bound, seals, charge));
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
        let (Slice { bound, .. }, placement) = self.at_mut(slice);
        let memory = placement.instance.memory_mut();
        bound.write_parameters(memory, parameters)?;
        bound.initialize_slots(memory)?;
        Ok(self.seal(slice)?)
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
        let (Slice { bound, .. }, placement) = self.at_mut(slice);
        let (former, memory) = (&from.slices[old.0].bound, placement.instance.memory_mut());
        let parts = |of: &BoundSlice| of.parts().collect::<Vec<_>>();
        let (parts, former_parts) = (parts(bound), parts(former));
        from.copy_out(old, &former_parts[0], memory.bytes_mut(parts[0].bytes())?)?;
        bound.initialize_slots(memory)?;
        let kept = bound.plan.slots.iter().zip(&parts[1..]).filter(|_| keep_slots);
        for (slot, part) in kept {
            let former = former.plan.slots.iter().zip(&former_parts[1..]).find(|(other, _)| other.name == slot.name);
            if let Some((_, former)) = former {
                from.copy_out(old, former, memory.bytes_mut(part.bytes())?)?;
            }
        }
        Ok(self.seal(slice)?)
    }

    /// Gives a slice other parameters, as raw little-endian `f32`, and leaves its slots as they are.
    ///
    /// # Errors
    /// The memory is not there: the optimizer misbehaved.
    ///
    /// # Panics
    /// If `parameters` has another length than the slice.
    pub fn write_parameters(&mut self, slice: SliceId, parameters: &[u8]) -> Result<(), SandboxError> {
        let (Slice { bound, seals, .. }, placement) = self.at_mut(slice);
        let memory = placement.instance.memory_mut();
        bound.write_parameters(memory, parameters)?;
        Ok(seals.seal(memory, &bound.parameters()?)?)
    }

    /// Forgets a slice, which must not be named again. Its room is used again at once if it was alone in its instance,
    /// otherwise when the instance is set up anew, before its next step.
    pub fn release(&mut self, slice: SliceId) {
        self.commit(slice);
        let placement = self.slices[slice.0].bound.placement;
        self.seal_open(placement);
        self.slices[slice.0].release();
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
        self.copy_out(slice, &self.slices[slice.0].bound.parameters()?, out)
    }

    /// A row of a slice's parameters, as raw little-endian `f32`; its number counts from the slice's first row. `None`
    /// where the slice does not have all of it.
    ///
    /// # Errors
    /// It was changed outside the slice's steps: the optimizer misbehaved.
    pub fn row(&self, slice: SliceId, row: u32) -> Result<Option<&[u8]>, SandboxError> {
        let (Slice { bound, .. }, placement) = self.at(slice);
        let range = || {
            let columns = usize::try_from(bound.plan.geometry.columns).ok()?;
            let start = (row as usize).checked_mul(columns)?;
            let end = start.checked_add(columns).filter(|end| *end <= bound.elements())?;
            Some(start..end)
        };
        let Some(range) = range() else { return Ok(None) };
        let parameters = bound.parameters()?;
        let units = parameters.clone().only(range.clone()).units();
        self.check(slice, &parameters.within(units), CopyTo::Nowhere)?;
        Ok(Some(placement.instance.memory().bytes(bound.layout.parameters.part(range))?))
    }

    /// A slot's bytes, little-endian; `None` where the plan has no slot of that name.
    ///
    /// # Errors
    /// They were changed outside the slice's steps: the optimizer misbehaved.
    pub fn read_slot(&self, slice: SliceId, name: &str) -> Result<Option<&[u8]>, SandboxError> {
        let (Slice { bound, .. }, placement) = self.at(slice);
        let named = |part: &StatePart| part.slot.is_some_and(|slot| bound.plan.slots[slot].name == name);
        let Some(part) = bound.parts().find(named) else { return Ok(None) };
        self.check(slice, &part, CopyTo::Nowhere)?;
        Ok(Some(placement.instance.memory().bytes(part.bytes())?))
    }

    /// Copies a part of a slice's state, once it is known to be as it was left.
    fn copy_out(&self, slice: SliceId, part: &StatePart, out: &mut [u8]) -> Result<(), SandboxError> {
        assert_eq!(out.len(), part.bytes().len(), "as long as what is copied");
        if self.check(slice, part, CopyTo::Over(out))? {
            return Ok(());
        }
        let (_, placement) = self.at(slice);
        out.copy_from_slice(placement.instance.memory().bytes(part.bytes())?);
        Ok(())
    }

    /// Makes sure that a part is as it was left, and copies it on the way, unless that is known without looking: then it
    /// does neither and returns `false`.
    fn check(&self, slice: SliceId, part: &StatePart, copy: CopyTo<'_>) -> Result<bool, SandboxError> {
        let (checked, Placement { instance, .. }) = self.at(slice);
        let Some(seals) = checked.seals_to_check(instance.calls()) else { return Ok(false) };
        match seals.verify(instance.memory(), part, copy)? {
            Ok(()) => Ok(true),
            Err(broken) => Err(self.tampering(slice, broken, Found::Reading).into()),
        }
    }

    /// Seals all of a slice as it is: the server has just written it.
    fn seal(&mut self, slice: SliceId) -> Result<(), NotInMemory> {
        let (sealed, placement) = self.at_mut(slice);
        placement.open.take_if(|open| *open == slice);
        sealed.seal_all(placement.instance.memory(), placement.instance.calls())
    }

    /// Seals the slice of an instance's last call, if that was put off. The instance must not have been called since.
    pub(crate) fn seal_open(&mut self, placement: usize) {
        if let Some(open) = self.placements[placement].open.take() {
            // It is in the memory: it has just been stepped. If it were not, it would not be found as it was left.
            let sealed = self.seal(open);
            debug_assert!(sealed.is_ok());
        }
    }

    /// A slice, and the instance it is in.
    pub(crate) fn at(&self, slice: SliceId) -> (&Slice, &Placement) {
        let slice = &self.slices[slice.0];
        (slice, &self.placements[slice.bound.placement])
    }

    /// A slice, and the instance it is in.
    pub(crate) fn at_mut(&mut self, slice: SliceId) -> (&mut Slice, &mut Placement) {
        let slice = &mut self.slices[slice.0];
        let placement = slice.bound.placement;
        (slice, &mut self.placements[placement])
    }

    /// The seals of a slice that is laid out so. Its memory is the server's own, and yet the tensor's shape and the
    /// optimizer's plan decide how much it is: so it is of the budget that they share. So is what rounds combine for the
    /// slice's rows and columns.
    fn seals_for(&mut self, plan: &Plan, layout: &Layout) -> Result<(SliceSeals, Arc<Charge>), SandboxError> {
        let parts: Vec<_> = parts_of(plan, layout).collect();
        let numbers = layout.combined.iter().map(View::elements).sum::<usize>() + SliceSeals::count(&parts);
        let bytes = (numbers * size_of::<u64>()) as u64;
        let charge = self.component.charge(bytes)?;
        let seals = SliceSeals::new(self.seal_key()?, &parts).map_err(|_| {
            let failure = CallFailure::TotalMemory { asked: bytes, limit: self.component.limits().total_memory_bytes };
            CallError { function: "bind", failure }
        })?;
        Ok((seals, charge))
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
        self.slices[slice.0].bound.plan.geometry.columns
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
}
