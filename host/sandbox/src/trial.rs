//! The trial run at admission: does the optimizer keep its promises on tensors whose loss would hurt nobody, and what
//! does a step cost?

use crate::component::AdmittedComponent;
use crate::error::SandboxError;
use crate::limits::{CHUNK_ELEMENTS, Limits};
use crate::plan::TensorDescription;
use crate::pool::InstancePool;
use crate::step::StepContext;

/// How much more than in the trial a step may use: data-dependent branches cost more on some data than on other.
const FUEL_MARGIN: u64 = 4;

/// Fuel for each step on top, so that cheap optimizers have some slack. About 0.1 ms.
const FUEL_SLACK: u64 = 100_000;

/// Rounds of the trial.
const ROUNDS: u64 = 3;

/// Sizes of the tensors of the trial, in elements: two, to tell the cost of a call from that of an element, and neither
/// a multiple of the SDK's unrolling.
const SIZES: [u32; 2] = [CHUNK_ELEMENTS - 1, 4 * CHUNK_ELEMENTS - 3];

/// What a step costs in fuel: linear in the block's elements.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct FuelModel {
    /// Budget of a call, whatever the block.
    call: u64,
    /// Budget for each 1024 elements.
    per_1024_elements: u64,
}

impl FuelModel {
    /// What a step may use at most according to the limits.
    pub(crate) fn untried(limits: &Limits) -> Self {
        Self { call: limits.call_fuel, per_1024_elements: limits.fuel_per_element.saturating_mul(1024) }
    }

    /// From the fuel that steps on two blocks used: their `(elements, fuel)`, the smaller block first.
    fn fitted([(few, low), (many, high)]: [(u64, u64); 2]) -> Self {
        let per_1024_elements = (high.saturating_sub(low) * 1024).div_ceil(many - few);
        let call = low.saturating_sub(per_1024_elements * few / 1024);
        Self { call: call * FUEL_MARGIN + FUEL_SLACK, per_1024_elements: per_1024_elements * FUEL_MARGIN }
    }

    /// Budget of a step on a block of this many elements.
    pub fn budget(&self, elements: u64) -> u64 {
        self.call.saturating_add(elements.saturating_mul(self.per_1024_elements).div_ceil(1024))
    }

    /// Fuel an element costs, as seen in the trial (a budget has four times as much).
    pub fn per_element(&self) -> f64 {
        self.per_1024_elements as f64 / 1024.0 / FUEL_MARGIN as f64
    }
}

/// Runs the optimizer twice over the same rounds with its default settings and returns what a step costs.
pub(crate) fn rehearse(component: &AdmittedComponent) -> Result<FuelModel, SandboxError> {
    let (first, costs) = run(component)?;
    let (second, _) = run(component)?;
    if first != second {
        return Err(SandboxError::NotDeterministic);
    }
    Ok(FuelModel::fitted(costs))
}

/// The state after the trial's rounds, bit for bit, and `(elements, fuel)` of the most expensive step of each size.
type Outcome = (Vec<u8>, [(u64, u64); 2]);

fn run(component: &AdmittedComponent) -> Result<Outcome, SandboxError> {
    let settings = component
        .configure(None, &[])
        .map_err(|error| SandboxError::Description(format!("its defaults are not acceptable: {error}")))?;
    let mut pool = component.pool(&settings);
    let mut state = Vec::new();
    let mut costs = [(0, 0); 2];
    for (cost, elements) in costs.iter_mut().zip(SIZES) {
        let tensor = TensorDescription {
            name: format!("trial.{elements}"),
            shape: vec![u64::from(elements)],
            ..TensorDescription::default()
        };
        let plan = component.plan(&settings, &tensor)?;
        let slice = pool.bind(&tensor, &plan, 0, elements)?;
        let parameters: Vec<u8> = (0..elements).flat_map(|index| sample(index, 0).to_le_bytes()).collect();
        pool.load(slice, &parameters)?;
        *cost = (u64::from(elements), 0);
        for round in 1..=ROUNDS {
            step(&mut pool, slice, round, settings.learning_rate())?;
            cost.1 = cost.1.max(pool.last_step_fuel());
        }
        let mut trained = vec![0; parameters.len()];
        pool.read_parameters(slice, &mut trained)?;
        state.extend(trained);
        for slot in &plan.slots {
            let values = pool.read_slot(slice, &slot.name).unwrap_or_default();
            state.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    Ok((state, costs))
}

fn step(
    pool: &mut InstancePool,
    slice: crate::pool::SliceId,
    round: u64,
    learning_rate: f64,
) -> Result<(), SandboxError> {
    let context = StepContext {
        step: round,
        tensor_step: round,
        learning_rate: learning_rate as f32,
        peak_learning_rate: learning_rate as f32,
        contributors: 1,
        staleness: 0,
        loss: None,
        seed: 0,
    };
    let mut gradient = |range: std::ops::Range<usize>, target: &mut [f32]| {
        for (index, element) in range.zip(target) {
            *element = sample(index as u32, round as u32);
        }
    };
    pool.step(slice, &context, &mut gradient).map_err(SandboxError::Trial)?;
    pool.commit(slice);
    Ok(())
}

/// A made-up value in [-1, 1], with some zeros and some very small ones among them: what gradients look like.
fn sample(index: u32, round: u32) -> f32 {
    let hash = index.wrapping_mul(0x9e37_79b9) ^ round.wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    let value = (hash >> 8) as f32 / (1 << 23) as f32 - 1.0;
    match hash % 16 {
        0 => 0.0,
        1 => value * 1e-20,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_several_times_the_measured_cost() {
        let model = FuelModel::fitted([(1000, 10_000), (11_000, 110_000)]);
        assert!((model.per_element() - 10.0).abs() < 0.1);
        assert!(model.budget(1000) >= 40_000 && model.budget(1000) < 40_000 + 2 * FUEL_SLACK);
        assert!(model.budget(u64::MAX) > 0);
    }
}
