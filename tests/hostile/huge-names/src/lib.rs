//! A hostile guest whose slot has a name of eight MiB: the server must not allocate that much for it.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Its slot has a name of eight MiB.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "huge-names";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("n".repeat(8 << 20).leak())]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        context.learning_rate
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        (parameter - rate * gradient, [velocity + gradient])
    }
}

register!(Hostile);
