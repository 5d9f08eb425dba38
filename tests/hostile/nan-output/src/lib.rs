//! A hostile guest that turns every parameter into NaN: the new parameters must be refused.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Turns every parameter into NaN: the new weights must be refused.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "nan-output";
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
        (parameter * f32::NAN * rate, [velocity + gradient])
    }
}

register!(Hostile);
