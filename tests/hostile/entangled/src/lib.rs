//! A hostile guest that counts the rounds of all tensors of its instance together and takes a larger step in every
//! third: the result of a tensor depends on which other tensors there are, and on their order.

#![forbid(unsafe_code)]

use std::cell::Cell;

use stepbox_guest::prelude::*;

thread_local! {
    static ROUNDS: Cell<u32> = const { Cell::new(0) };
}

hyperparameters! {
    /// Goes further in every third round of all its tensors together.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "entangled";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 0];
    type Round = f32;

    fn slots(&self) -> [Slot; 0] {
        []
    }

    fn begin(&self, _: &Tensor, context: &Context) -> f32 {
        let rounds = ROUNDS.replace(ROUNDS.get() + 1);
        if rounds % 3 == 2 { 2.0 * context.learning_rate } else { context.learning_rate }
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, _: [f32; 0]) -> (f32, [f32; 0]) {
        (parameter - rate * gradient, [])
    }
}

register!(Hostile);
