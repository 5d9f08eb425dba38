//! A hostile guest with a step that never ends: it must run out of fuel, or out of time if there is plenty of fuel.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// A step that never ends: must run out of fuel, or out of time where fuel is plenty.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "endless-loop";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        context.learning_rate
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        let mut turn = velocity;
        loop {
            turn = std::hint::black_box(turn + parameter * gradient * rate);
        }
    }
}

register!(Hostile);
