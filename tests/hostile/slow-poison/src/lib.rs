//! A hostile guest that behaves until its tenth round, then writes new values to half a block and traps: the step must
//! leave no trace.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Behaves until its tenth round, then writes half a block of new values and traps: the step must leave no trace.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "slow-poison";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        if context.tensor_step < 10 { context.learning_rate } else { -1.0 }
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        assert!(*rate > 0.0 || parameter < 1e9, "poisoned");
        (parameter - rate.abs() * gradient, [velocity + gradient])
    }
}

register!(Hostile);
