//! A hostile guest that allocates memory until it gets none: it must reach the memory limit.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Takes memory for as long as it gets any: must run into the memory limit.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "memory-bomb";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        let mut hoard: Vec<Vec<u8>> = Vec::new();
        while hoard.len() < 100_000 {
            hoard.push(std::hint::black_box(Vec::with_capacity(1 << 20)));
        }
        context.learning_rate + hoard.len() as f32
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        (parameter - rate * gradient, [velocity + gradient])
    }
}

register!(Hostile);
