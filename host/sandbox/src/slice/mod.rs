//! A part of a tensor in an instance's memory: where its parameters and slots lie, its seals, and what it was before its
//! round.

pub(crate) mod finite;
pub(crate) mod layout;
pub(crate) mod parts;
pub(crate) mod report;
pub(crate) mod seal;
pub(crate) mod seals;
pub(crate) mod undo;

use std::sync::Arc;

use crate::contract::declarations::Initial;
use crate::contract::plan::{Plan, TensorDescription};
use crate::contract::settings::Settings;
use crate::error::SandboxError;
use crate::instance::memory::GuestMemory;
use layout::Layout;
use parts::{StatePart, state_parts};
use undo::UndoLog;

/// A slice and where it lives.
pub(crate) struct BoundSlice {
    /// Nobody will name it again; its room goes when its instance is set up anew.
    pub(crate) released: bool,
    pub(crate) tensor: TensorDescription,
    pub(crate) settings: Settings,
    pub(crate) plan: Arc<Plan>,
    pub(crate) start: u64,
    pub(crate) placement: usize,
    pub(crate) handle: u32,
    pub(crate) layout: Layout,
    /// Of a round that is neither committed nor rolled back.
    pub(crate) log: Option<UndoLog>,
    /// Its instance was set up anew in the middle of that round, so that the round cannot go on.
    pub(crate) interrupted: bool,
}

/// Gives a slice's slots their first values. Its parameters are there.
pub(crate) fn initialize_slots(memory: &mut GuestMemory, slice: &BoundSlice) -> Result<(), SandboxError> {
    for (part, slot) in state_parts(slice).skip(1).zip(&slice.plan.slots) {
        initialize(memory, &part, slot.initial, slice)?;
    }
    Ok(())
}

/// Gives a part of a slice these first values.
pub(crate) fn initialize(
    memory: &mut GuestMemory,
    part: &StatePart,
    initial: Initial,
    slice: &BoundSlice,
) -> Result<(), SandboxError> {
    let place = part.bytes();
    match initial {
        Initial::Zero => memory.bytes_mut(place).ok_or_else(vanished)?.fill(0),
        Initial::Constant(value) => {
            let element = part.element.encode(value).ok_or_else(vanished)?;
            let bytes = memory.bytes_mut(place).ok_or_else(vanished)?;
            bytes.chunks_exact_mut(element.len()).for_each(|place| place.copy_from_slice(&element));
        }
        Initial::Parameter => {
            let parameters = slice.layout.parameters.part(part.elements.clone());
            let parameters = memory.bytes(parameters).ok_or_else(vanished)?.to_vec();
            memory.bytes_mut(place).ok_or_else(vanished)?.copy_from_slice(&parameters);
        }
    }
    Ok(())
}

/// A place that was claimed is not in the memory: cannot happen, since memories never shrink, but is no reason to stop
/// the server.
pub(crate) fn vanished() -> SandboxError {
    SandboxError::Engine("a slice is no longer within its instance's memory".into())
}
