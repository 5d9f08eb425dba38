//! A hostile guest that imports a made-up function to read the server's files: it must be refused before it runs.

#![deny(unsafe_code)]

use stepbox_guest::prelude::*;

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, clippy::all)]
mod host {
    wit_bindgen::generate!({ path: "wit", world: "forbidden-import", generate_all });
}

hyperparameters! {
    /// Reads the server's files.
    pub struct Hostile {}
}

impl Elementwise for Hostile {
    const NAME: &'static str = "forbidden-import";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        read_files();
        context.learning_rate
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        (parameter - rate * gradient, [velocity + gradient])
    }
}

register!(Hostile);

#[cfg(not(target_arch = "wasm32"))]
fn read_files() {}

#[cfg(target_arch = "wasm32")]
fn read_files() {
    let _ = host::hostile::host::files::read("/etc/passwd");
}
