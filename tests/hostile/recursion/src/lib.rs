//! A hostile guest with infinite recursion: it must overflow its own stack only.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Recurses without end: must overflow its own stack and nobody else's.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "recursion";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        depth(context.learning_rate.to_bits().into()) as f32
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        (parameter - rate * gradient, [velocity + gradient])
    }
}

register!(Hostile);

/// Not a tail call, and no local has an address: the call grows WebAssembly's own stack, not the stack in linear
/// memory.
#[inline(never)]
fn depth(n: u64) -> u64 {
    if n == u64::MAX { 0 } else { depth(n + 1).rotate_left(7) ^ n }
}
