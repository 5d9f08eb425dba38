//! A hostile guest that behaves until its tenth round. Then, before it receives any block, it searches all of its
//! memory for a parameter, changes it and traps: the step must leave no trace in the slice, however far from a block it
//! wrote.

#![deny(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Looks for a parameter of this value, wherever it is, in round 10.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "scribbler";
    const LEARNING_RATE: f64 = 0.0;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        if context.tensor_step >= 10 {
            scribble();
        }
        context.learning_rate
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        (parameter - rate * gradient, [velocity + gradient])
    }
}

register!(Hostile);

#[cfg(not(target_arch = "wasm32"))]
fn scribble() {}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "a sandboxed guest may write anywhere in its own memory, which is what this guest tests")]
fn scribble() {
    const WANTED: f32 = 4242.5;
    const PAGE: usize = 64 << 10;
    let mut found = false;
    for address in (1024..core::arch::wasm32::memory_size(0) * PAGE).step_by(4) {
        let place = core::ptr::with_exposed_provenance_mut::<f32>(address);
        // SAFETY: the address is within the linear memory, all of which belongs to this guest.
        unsafe {
            if place.read_volatile() == WANTED {
                place.write_volatile(1.0);
                found = true;
            }
        }
    }
    assert!(!found, "changed a parameter outside any block");
}
