//! A hostile guest that imports WASI to sleep for an hour, beyond the reach of fuel and deadline: it must be stopped at
//! once.

#![deny(unsafe_code)]

use stepbox_guest::prelude::*;

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, clippy::all)]
mod wasi {
    wit_bindgen::generate!({ path: "wit", world: "sleeper", generate_all });
}

hyperparameters! {
    /// Sleeps for an hour in every round.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "wasi-sleeper";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        sleep();
        context.learning_rate
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        (parameter - rate * gradient, [velocity + gradient])
    }
}

register!(Hostile);

#[cfg(not(target_arch = "wasm32"))]
fn sleep() {}

#[cfg(target_arch = "wasm32")]
fn sleep() {
    wasi::wasi::clocks::monotonic_clock::subscribe_duration(3_600_000_000_000).block();
}
