//! Parameters and slots of a tensor.

use crate::Tensor;
use crate::plan::{Plan, slot_range};
use crate::slot::{Initial, StoredSlot};

/// What rounds change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    pub(super) parameters: Vec<f32>,
    /// In the order of the plan's stored slots.
    pub(super) slots: Vec<Storage>,
}

impl State {
    pub(super) fn new(plan: &Plan, tensor: &Tensor, parameters: Vec<f32>) -> Self {
        let slots = plan.stored_slots().map(|slot| Storage::first(&slot, tensor, &parameters)).collect();
        Self { parameters, slots }
    }
}

/// Bytes that are aligned for elements of any type.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Storage {
    words: Vec<u64>,
    length: usize,
}

impl Storage {
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        let mut storage = Self { words: vec![0; bytes.len().div_ceil(size_of::<u64>())], length: bytes.len() };
        storage.bytes_mut().copy_from_slice(bytes);
        storage
    }

    fn first(slot: &StoredSlot, tensor: &Tensor, parameters: &[f32]) -> Self {
        let elements = slot_range(slot.extent, tensor, 0..tensor.elements());
        let bytes = (elements.end - elements.start) as usize * slot.element.bytes();
        match slot.initial {
            Initial::Parameter => Self::of_bytes(bytemuck::cast_slice(parameters)),
            Initial::Zero => Self { words: vec![0; bytes.div_ceil(size_of::<u64>())], length: bytes },
            Initial::Constant(value) => {
                let element = slot.element.bytes_of(value);
                Self::of_bytes(&element.repeat(bytes / element.len()))
            }
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.length]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.length]
    }
}
