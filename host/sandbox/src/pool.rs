//! The instances of one optimizer on one shard thread, and the slices that live in them.

use crate::component::AdmittedComponent;
use crate::error::{SandboxError, StepError};
use crate::house::{BoundSlice, House, SliceRequest, initialize_slots, vanished};
use crate::layout::bytes_needed;
use crate::limits::CHUNK_ELEMENTS;
use crate::memory::GuestMemory;
use crate::plan::{Plan, TensorDescription};
use crate::settings::Settings;
use crate::step::{GradientSource, StepContext, step_blocks};
use crate::undo::UndoLog;

/// Undo logs whose room is kept between steps: enough for the slices of a large tensor, and no more than 64 times the
/// largest slice's state.
const SPARE_LOGS: usize = 64;

/// Names a slice within its [`InstancePool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SliceId(usize);

/// Instances of one deployed optimizer, as many as its slices need: a 32-bit memory holds 4 GiB. A pool belongs to
/// one thread; a tensor's other slices may live in other pools.
///
/// A slice is bound (which makes room), loaded or taken over (which fills it), then stepped. Each successful step is
/// kept with [`commit`](Self::commit) or taken back with [`roll_back`](Self::roll_back).
pub struct InstancePool {
    component: AdmittedComponent,
    settings: Settings,
    houses: Vec<House>,
    slices: Vec<BoundSlice>,
    spare_logs: Vec<UndoLog>,
    last_step_fuel: u64,
}

impl InstancePool {
    pub(crate) fn new(component: AdmittedComponent, settings: Settings) -> Self {
        Self { component, settings, houses: Vec::new(), slices: Vec::new(), spare_logs: Vec::new(), last_step_fuel: 0 }
    }

    /// Makes room for `elements` parameters of a tensor, from element `start` on (a multiple of 4096), and for their
    /// slots. Opens another instance where none has room left.
    ///
    /// # Errors
    /// The optimizer misbehaved, or memory limits are reached. What was bound before keeps its values.
    ///
    /// # Panics
    /// If `elements` is 0, or `start` no multiple of 4096.
    pub fn bind(
        &mut self,
        tensor: &TensorDescription,
        plan: &Plan,
        start: u64,
        elements: u32,
    ) -> Result<SliceId, SandboxError> {
        assert!(
            elements > 0 && start.is_multiple_of(u64::from(CHUNK_ELEMENTS)),
            "a slice starts at a chunk, not empty"
        );
        let limit = self.component.limits().instance_memory_bytes;
        let too_large = |bytes| SandboxError::SliceTooLarge { bytes, limit };
        let bytes = bytes_needed(elements, plan.slots.len())
            .ok_or_else(|| too_large(u64::from(elements) * plan.bytes_per_parameter()))?;
        let most = u64::from(bytes) + u64::from(self.scratch_elements(elements)) * size_of::<f32>() as u64;
        let overhead = self.component.limits().guest_overhead_bytes;
        if most + overhead > limit {
            return Err(too_large(most));
        }
        let open = |house: &House| house.instance.is_alive() && house.placed_bytes + most + overhead <= limit;
        let house = match self.houses.iter().position(open) {
            Some(house) => house,
            None => self.open_house()?,
        };
        let scratch_elements = self.scratch_elements(elements);
        let request = SliceRequest { tensor, start, elements, slots: plan.slots.len(), bytes, scratch_elements };
        let placed = self.houses[house].place(&self.component, &self.settings, &request);
        let (handle, layout) = placed.inspect_err(|_| self.abandon_room(house))?;
        let (tensor, plan) = (tensor.clone(), plan.clone());
        self.slices.push(BoundSlice { released: false, tensor, plan, start, house, handle, layout, log: None });
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
        let slice = &self.slices[slice.0];
        let memory = self.houses[slice.house].instance.memory_mut();
        let elements = slice.layout.elements();
        let target = memory.bytes_mut(slice.layout.bytes(0, 0..elements)).ok_or_else(vanished)?;
        target.copy_from_slice(parameters);
        initialize_slots(memory, slice)
    }

    /// Takes parameters over from another optimizer's pool, and its slots' values where `keep_slots` says so and both
    /// have a slot of the same name; other slots get their first values.
    ///
    /// # Errors
    /// The memory is not there: the optimizer misbehaved.
    ///
    /// # Panics
    /// If the two slices differ in length.
    pub fn take_over(
        &mut self,
        slice: SliceId,
        from: &InstancePool,
        old: SliceId,
        keep_slots: bool,
    ) -> Result<(), SandboxError> {
        let slice = &self.slices[slice.0];
        let old = &from.slices[old.0];
        let elements = slice.layout.elements();
        let source = from.houses[old.house].instance.memory();
        let memory = self.houses[slice.house].instance.memory_mut();

        let copy = |memory: &mut GuestMemory, view, old_view| {
            let target = memory.bytes_mut(slice.layout.bytes(view, 0..elements)).ok_or_else(vanished)?;
            target.copy_from_slice(source.bytes(old.layout.bytes(old_view, 0..elements)).ok_or_else(vanished)?);
            Ok::<_, SandboxError>(())
        };
        copy(memory, 0, 0)?;
        initialize_slots(memory, slice)?;
        if keep_slots {
            for (index, slot) in slice.plan.slots.iter().enumerate() {
                if let Some(old_index) = old.plan.slots.iter().position(|other| other.name == slot.name) {
                    copy(memory, index + 1, old_index + 1)?;
                }
            }
        }
        Ok(())
    }

    /// One round for a slice: asks `gradient` for block after block and runs the optimizer on each.
    ///
    /// # Errors
    /// The optimizer failed. The slice's parameters and slots are bit for bit what they were before.
    pub fn step(
        &mut self,
        slice: SliceId,
        context: &StepContext,
        gradient: &mut GradientSource<'_>,
    ) -> Result<(), StepError> {
        self.commit(slice);
        let house = self.slices[slice.0].house;
        self.revive(house).map_err(|error| StepError::NotRevived(Box::new(error)))?;
        let mut log = self.spare_logs.pop().unwrap_or_default();
        let slice = &mut self.slices[slice.0];
        let house = &mut self.houses[slice.house];
        let result = step_blocks(&self.component, house, slice, context, gradient, &mut log);
        match result {
            Ok(fuel) => {
                self.last_step_fuel = fuel;
                slice.log = Some(log);
                Ok(())
            }
            Err(error) => {
                // The memory cannot have shrunk, so what was read from it can be written back.
                let undone = log.undo(house.instance.memory_mut(), &slice.layout);
                debug_assert!(undone.is_some());
                self.keep_log(log);
                Err(error)
            }
        }
    }

    /// Forgets a slice, which must not be named again. Its room is used again at once if it was alone in its instance,
    /// otherwise when the instance is set up anew, before its next step.
    pub fn release(&mut self, slice: SliceId) {
        self.commit(slice);
        let house = self.slices[slice.0].house;
        self.slices[slice.0].released = true;
        self.abandon_room(house);
    }

    /// Keeps the last step of a slice.
    pub fn commit(&mut self, slice: SliceId) {
        if let Some(log) = self.slices[slice.0].log.take() {
            self.keep_log(log);
        }
    }

    /// Takes the last step of a slice back, if it was not committed: another slice of the same tensor failed.
    pub fn roll_back(&mut self, slice: SliceId) {
        let slice = &mut self.slices[slice.0];
        if let Some(log) = slice.log.take() {
            let undone = log.undo(self.houses[slice.house].instance.memory_mut(), &slice.layout);
            debug_assert!(undone.is_some());
            self.keep_log(log);
        }
    }

    /// Copies a slice's parameters out, as raw little-endian `f32`.
    ///
    /// # Errors
    /// The memory is not there: the optimizer misbehaved.
    ///
    /// # Panics
    /// If `out` has another length than the slice.
    pub fn read_parameters(&self, slice: SliceId, out: &mut [u8]) -> Result<(), SandboxError> {
        let slice = &self.slices[slice.0];
        let memory = self.houses[slice.house].instance.memory();
        out.copy_from_slice(memory.bytes(slice.layout.bytes(0, 0..slice.layout.elements())).ok_or_else(vanished)?);
        Ok(())
    }

    /// A slot's values; `None` where the plan has no slot of that name.
    pub fn read_slot(&self, slice: SliceId, name: &str) -> Option<Vec<f32>> {
        let slice = &self.slices[slice.0];
        let index = slice.plan.slots.iter().position(|slot| slot.name == name)?;
        let memory = self.houses[slice.house].instance.memory();
        slice.layout.values(memory, index + 1, 0..slice.layout.elements()).map(<[f32]>::to_vec)
    }

    /// Linear memory of all instances, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.houses.iter().map(|house| house.instance.memory().len() as u64).sum()
    }

    /// Number of instances.
    pub fn instances(&self) -> usize {
        self.houses.len()
    }

    /// Fuel the last step of a slice used, all blocks together.
    pub fn last_step_fuel(&self) -> u64 {
        self.last_step_fuel
    }

    /// Keeps a log's room for the next step. A key's slices have their logs at the same time, and usually as many the
    /// next time.
    fn keep_log(&mut self, log: UndoLog) {
        if self.spare_logs.len() < SPARE_LOGS {
            self.spare_logs.push(log);
        }
    }

    /// Elements of gradient scratch for a slice: a block, or less where slices are small.
    fn scratch_elements(&self, elements: u32) -> u32 {
        let block = self.component.block_elements();
        elements.next_multiple_of(CHUNK_ELEMENTS).min(block)
    }

    /// A new instance, in the place of one that ended with nothing in it where there is such.
    fn open_house(&mut self) -> Result<usize, SandboxError> {
        let house = House::new(self.component.instantiate()?);
        let in_use = |index: usize| self.slices.iter().any(|slice| slice.house == index && !slice.released);
        let deserted = (0..self.houses.len()).find(|index| !self.houses[*index].instance.is_alive() && !in_use(*index));
        match deserted {
            Some(index) => self.houses[index] = house,
            None => self.houses.push(house),
        }
        Ok(deserted.unwrap_or(self.houses.len() - 1))
    }

    /// There is room in an instance that nobody will use: of a failed `bind`, or of a slice that was released. The
    /// instance ends; with slices in it, it is set up again before its next step, with room for these and no more.
    fn abandon_room(&mut self, house: usize) {
        self.houses[house].instance.retire();
        let in_use = |house: usize| self.slices.iter().any(|slice| slice.house == house && !slice.released);
        // From the end, so that no index in use changes.
        let kept = (0..self.houses.len()).rfind(|house| in_use(*house)).map_or(0, |last| last + 1);
        self.houses.truncate(kept);
    }

    /// Sets an instance up again that has failed: a new one with the same slices and their values.
    fn revive(&mut self, house: usize) -> Result<(), SandboxError> {
        if self.houses[house].instance.is_alive() {
            return Ok(());
        }
        let mut revived = House::new(self.component.instantiate_after(&self.houses[house].instance)?);
        let mut moved = Vec::new();
        for (index, slice) in
            self.slices.iter().enumerate().filter(|(_, slice)| slice.house == house && !slice.released)
        {
            let (elements, slots) = (slice.layout.elements() as u32, slice.plan.slots.len());
            let request = SliceRequest {
                tensor: &slice.tensor,
                start: slice.start,
                elements,
                slots,
                bytes: bytes_needed(elements, slots).ok_or_else(vanished)?,
                scratch_elements: self.scratch_elements(elements),
            };
            let (handle, layout) = revived.place(&self.component, &self.settings, &request)?;
            let (source, target) = (self.houses[house].instance.memory(), revived.instance.memory_mut());
            for view in 0..layout.views() {
                let values = source.bytes(slice.layout.bytes(view, 0..elements as usize)).ok_or_else(vanished)?;
                let place = target.bytes_mut(layout.bytes(view, 0..elements as usize)).ok_or_else(vanished)?;
                place.copy_from_slice(values);
            }
            moved.push((index, handle, layout));
        }
        // Only now, when nothing can fail any more, does the old memory go.
        self.houses[house] = revived;
        for (index, handle, layout) in moved {
            (self.slices[index].handle, self.slices[index].layout) = (handle, layout);
        }
        Ok(())
    }
}
