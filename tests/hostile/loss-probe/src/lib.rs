//! Neither hostile nor an optimizer: moves every parameter by the loss of the round, so that a test can observe the
//! loss.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Moves every parameter by the loss of the round; not at all where there is none.
    pub struct Probe {}
}

impl Elementwise for Probe {
    const NAME: &'static str = "loss-probe";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 0];
    type Round = f32;

    fn slots(&self) -> [Slot; 0] {
        []
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        context.loss.unwrap_or(0.0)
    }

    fn update(loss: &f32, parameter: f32, _gradient: f32, state: [f32; 0]) -> (f32, [f32; 0]) {
        (parameter + loss, state)
    }
}

register!(Probe);
