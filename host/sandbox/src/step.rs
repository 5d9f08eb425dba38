//! One round of one slice, block after block.

use std::ops::Range;

use crate::component::AdmittedComponent;
use crate::contract::types;
use crate::error::StepError;
use crate::house::{BoundSlice, House, vanished};
use crate::memory::GuestMemory;
use crate::undo::UndoLog;

/// What a step is told about its round: see the contract's `context`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepContext {
    /// The round of this tensor: 1 in its first.
    pub step: u64,
    /// Rounds in which this tensor was updated since its slots were made, this one included.
    pub tensor_step: u64,
    /// Learning rate of this round.
    pub learning_rate: f32,
    /// The largest learning rate of the schedule.
    pub peak_learning_rate: f32,
    /// How many workers' gradients the aggregate holds.
    pub contributors: u32,
    /// Rounds by which the oldest of them is late.
    pub staleness: u32,
    /// Mean of the workers' losses.
    pub loss: Option<f32>,
    /// Key of the random stream.
    pub seed: u64,
}

impl StepContext {
    fn raw(&self) -> types::Context {
        types::Context {
            step: self.step,
            tensor_step: self.tensor_step,
            learning_rate: self.learning_rate,
            peak_learning_rate: self.peak_learning_rate,
            contributors: self.contributors,
            staleness: self.staleness,
            loss: self.loss,
            seed: self.seed,
        }
    }
}

/// Fills a part of the aggregated gradient: the range of elements of the slice, and where to write them.
pub type GradientSource<'a> = dyn FnMut(Range<usize>, &mut [f32]) + 'a;

/// Runs all blocks of a slice; returns the fuel they used.
pub(crate) fn step_blocks(
    component: &AdmittedComponent,
    house: &mut House,
    slice: &BoundSlice,
    context: &StepContext,
    gradient: &mut GradientSource<'_>,
    log: &mut UndoLog,
) -> Result<u64, StepError> {
    let lost = || StepError::NotRevived(Box::new(vanished()));
    let scratch = house.gradient.ok_or_else(lost)?;
    let elements = slice.layout.elements();
    let instance = &mut house.instance;
    log.remember(instance.memory(), &slice.layout).ok_or_else(lost)?;
    instance.begin(slice.handle, context.raw())?;
    let mut fuel_used = 0;
    for start in (0..elements).step_by(scratch.elements as usize) {
        let block = start..elements.min(start + scratch.elements as usize);
        let target = instance.memory_mut().floats_mut(scratch.offset as usize, block.len()).ok_or_else(lost)?;
        gradient(block.clone(), target);
        if let Some(position) = first_not_finite(target) {
            return Err(StepError::GradientNotFinite { index: start + position, value: target[position] });
        }
        let fuel = component.step_fuel(block.len());
        let raw = types::Block {
            start: block.start as u32,
            elements: block.len() as u32,
            gradient: scratch.offset,
            rows: None,
        };
        instance.step(slice.handle, 0, raw, fuel)?;
        fuel_used += fuel - instance.fuel_left();
        check_output(instance.memory(), slice, block)?;
    }
    Ok(fuel_used)
}

/// Parameters and slots of a block must be finite: a slot that is not would freeze a parameter for ever, or end in a
/// round that fails, and fails again each time it is tried.
fn check_output(memory: &GuestMemory, slice: &BoundSlice, block: Range<usize>) -> Result<(), StepError> {
    for view in 0..slice.layout.views() {
        let written = slice
            .layout
            .values(memory, view, block.clone())
            .ok_or_else(|| StepError::NotRevived(Box::new(vanished())))?;
        if let Some(position) = first_not_finite(written) {
            let what = match view {
                0 => "parameter".into(),
                slot => format!("slot {}, element", slice.plan.slots[slot - 1].name),
            };
            return Err(StepError::NotFinite { what, index: block.start + position, value: written[position] });
        }
    }
    Ok(())
}

/// The first NaN or infinity. The common case, none, is one pass without branches, which the compiler turns into SIMD.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    let all_finite = values.iter().fold(true, |finite, value| finite & (value.to_bits() & EXPONENT != EXPONENT));
    if all_finite { None } else { values.iter().position(|value| !value.is_finite()) }
}

#[cfg(test)]
mod tests {
    use super::first_not_finite;

    #[test]
    fn the_first_value_that_is_not_finite_is_found_wherever_it_is() {
        let finite = [f32::MAX, f32::MIN, 0.0, -0.0, 1e-45];
        for length in [0, 1, 31, 32, 33, 100] {
            let mut values: Vec<f32> = finite.into_iter().cycle().take(length).collect();
            assert_eq!(first_not_finite(&values), None);
            for position in (0..length).rev() {
                values[position] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][position % 3];
                assert_eq!(first_not_finite(&values), Some(position));
            }
        }
    }
}
