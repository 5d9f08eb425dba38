//! The parameters and slots of a tensor.

use crate::plan::{Plan, slot_range};
use crate::slot::{ElementType, Initial, StoredSlot};
use crate::statistics::CHUNK_ELEMENTS;
use crate::{Tensor, bf16, cast};

/// The state that rounds change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    pub(super) parameters: Vec<f32>,
    /// Contents of the slots, in the order of the plan's stored slots.
    pub(super) slots: Vec<Storage>,
}

impl State {
    pub(super) fn new(plan: &Plan, tensor: &Tensor, parameters: Vec<f32>) -> Self {
        let slots = plan.stored_slots().map(|slot| Storage::first(&slot, tensor, &parameters)).collect();
        Self { parameters, slots }
    }
}

impl State {
    /// Describes the first parameter or slot element that is not finite.
    pub(super) fn not_finite(&self, plan: &Plan) -> Option<String> {
        if let Some(index) = position_not_finite(&self.parameters) {
            return Some(format!("parameter {index}"));
        }
        plan.stored_slots().zip(&self.slots).find_map(|(slot, storage)| {
            let bytes = storage.bytes();
            let index = match slot.element {
                ElementType::F32 => position_not_finite(cast::elements(bytes)),
                ElementType::F64 => position(cast::elements(bytes), |value: &f64| value.is_finite()),
                ElementType::Bf16 => position(cast::elements(bytes), |bits: &u16| bf16::to_f32(*bits).is_finite()),
                ElementType::U8 | ElementType::U32 | ElementType::U64 => None,
            };
            index.map(|index| format!("element {index} of slot {}", slot.name))
        })
    }
}

/// Index of the first number that is not finite.
pub(super) fn position_not_finite(numbers: &[f32]) -> Option<usize> {
    position(numbers, |number| number.is_finite())
}

/// Index of the first value that is not good.
fn position<T>(values: &[T], is_good: impl Fn(&T) -> bool) -> Option<usize> {
    // Without a branch for each value: nearly always all are good.
    let all_good = |values: &[T]| values.iter().fold(true, |good, value| good & is_good(value));
    let chunk = values.chunks(CHUNK_ELEMENTS).position(|chunk| !all_good(chunk))? * CHUNK_ELEMENTS;
    values[chunk..].iter().position(|value| !is_good(value)).map(|index| chunk + index)
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
