//! An instance with what the server placed in it, and the slices that live there.

use crate::component::AdmittedComponent;
use crate::error::SandboxError;
use crate::instance::Instance;
use crate::layout::{Layout, Places};
use crate::memory::GuestMemory;
use crate::plan::{Initial, Plan, TensorDescription};
use crate::settings::Settings;
use crate::undo::UndoLog;

/// An instance and what the server placed in it.
pub(crate) struct House {
    pub(crate) instance: Instance,
    places: Places,
    pub(crate) placed_bytes: u64,
    pub(crate) gradient: Option<Scratch>,
}

/// The room in an instance where gradients are written, block after block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scratch {
    pub(crate) offset: u32,
    pub(crate) elements: u32,
}

/// What to place in an instance.
pub(crate) struct SliceRequest<'a> {
    pub(crate) tensor: &'a TensorDescription,
    pub(crate) start: u64,
    pub(crate) elements: u32,
    pub(crate) slots: usize,
    pub(crate) bytes: u32,
    pub(crate) scratch_elements: u32,
}

impl House {
    pub(crate) fn new(instance: Instance) -> Self {
        Self { instance, places: Places::default(), placed_bytes: 0, gradient: None }
    }

    /// Reserves room for a slice (and for gradients, if what there is is too small) and binds it.
    pub(crate) fn place(
        &mut self,
        component: &AdmittedComponent,
        settings: &Settings,
        request: &SliceRequest<'_>,
    ) -> Result<(u32, Layout), SandboxError> {
        if self.gradient.is_none_or(|gradient| gradient.elements < request.scratch_elements) {
            let bytes = request.scratch_elements * size_of::<f32>() as u32;
            let offset = self.reserve(component, bytes)?;
            self.gradient = Some(Scratch { offset, elements: request.scratch_elements });
        }
        let base = self.reserve(component, request.bytes)?;
        let layout = Layout::new(base, request.elements, request.slots);
        let handle = self.instance.bind(&layout.raw(request.tensor.raw(), request.start), settings.values())?;
        Ok((handle, layout))
    }

    fn reserve(&mut self, component: &AdmittedComponent, bytes: u32) -> Result<u32, SandboxError> {
        let allowed = self.placed_bytes + u64::from(bytes) + component.limits().guest_overhead_bytes;
        let offset = self.instance.reserve(bytes, allowed.min(component.limits().instance_memory_bytes))?;
        self.places.claim(offset, bytes, self.instance.memory().len())?;
        self.placed_bytes += u64::from(bytes);
        Ok(offset)
    }
}

/// A slice and where it lives.
pub(crate) struct BoundSlice {
    /// Nobody will name it again; its room goes when its instance is set up anew.
    pub(crate) released: bool,
    pub(crate) tensor: TensorDescription,
    pub(crate) plan: Plan,
    pub(crate) start: u64,
    pub(crate) house: usize,
    pub(crate) handle: u32,
    pub(crate) layout: Layout,
    /// Of a step that is neither committed nor rolled back.
    pub(crate) log: Option<UndoLog>,
}

/// Gives a slice's slots their first values. Its parameters are there.
pub(crate) fn initialize_slots(memory: &mut GuestMemory, slice: &BoundSlice) -> Result<(), SandboxError> {
    for (index, slot) in slice.plan.slots.iter().enumerate() {
        match slot.initial {
            Initial::Zero => slice.layout.values_mut(memory, index + 1).ok_or_else(vanished)?.fill(0.0),
            Initial::Constant(value) => slice.layout.values_mut(memory, index + 1).ok_or_else(vanished)?.fill(value),
            Initial::Parameter => {
                let elements = slice.layout.elements();
                let parameters = slice.layout.values(memory, 0, 0..elements).ok_or_else(vanished)?.to_vec();
                slice.layout.values_mut(memory, index + 1).ok_or_else(vanished)?.copy_from_slice(&parameters);
            }
        }
    }
    Ok(())
}

/// A place that was claimed is not in the memory: cannot happen, since memories never shrink, but is no reason to stop
/// the server.
pub(crate) fn vanished() -> SandboxError {
    SandboxError::Engine("a slice is no longer within its instance's memory".into())
}
