//! A guest that imports WASI and traps unless WASI is empty: it must run where the operator allows WASI, and see
//! nothing.

#![deny(unsafe_code)]

use stepbox_guest::prelude::*;

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, clippy::all)]
mod wasi {
    wit_bindgen::generate!({ path: "wit", world: "probe", generate_all });
}

hyperparameters! {
    /// Looks for anything that WASI might give away.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "wasi-probe";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        look_around();
        context.learning_rate
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        (parameter - rate * gradient, [velocity + gradient])
    }
}

register!(Hostile);

#[cfg(not(target_arch = "wasm32"))]
fn look_around() {}

#[cfg(target_arch = "wasm32")]
fn look_around() {
    use wasi::wasi::{cli, clocks, random};

    assert!(cli::environment::get_environment().is_empty(), "an environment");
    assert!(cli::environment::get_arguments().is_empty(), "arguments");
    assert_eq!(clocks::wall_clock::now().seconds, 0, "the time of day");
    assert_eq!(clocks::monotonic_clock::now(), clocks::monotonic_clock::now(), "a clock that runs");
    assert_eq!(random::random::get_random_u64(), 0, "entropy");
    // Standard error is the only thing that works, up to a limit.
    let text = b"looked around and found nothing\n";
    let _ = cli::stderr::get_stderr().blocking_write_and_flush(text);
}
