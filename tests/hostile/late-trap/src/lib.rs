//! A hostile guest that writes parameters and state in its first phase and traps in the second if it finds a parameter
//! above a billion: the round must leave no trace, wherever the other slices of the tensor are.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Traps in its second phase where it finds a parameter above a billion.
    pub struct Hostile {}
}

const ROUNDS: Slot = Slot::zero("rounds");
const SUM: Accumulator = Accumulator::sum("sum");

impl Optimizer for Hostile {
    const NAME: &'static str = "late-trap";
    const LEARNING_RATE: f64 = 0.01;
    type Round = f32;

    fn plan(&self, _tensor: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new().slots(&[ROUNDS]).accumulators(&[SUM]).phases(&["write", "trap"]))
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<f32, String> {
        Ok(context.learning_rate)
    }

    fn step(&self, round: &f32, phase: usize, block: &mut Block<'_>) -> Result<(), String> {
        let rate = *round;
        if phase == 0 {
            return block.update_contributing([ROUNDS], [SUM], |p, g, [rounds]| (p - rate * g, [rounds + 1.0], [g]));
        }
        assert!(block.parameters.iter().all(|parameter| *parameter < 1e9), "poisoned");
        Ok(())
    }
}

register!(Hostile);
