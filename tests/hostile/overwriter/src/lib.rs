//! A hostile guest that in each step also writes a finite number into the parameters that it stepped before: another
//! tensor, if its memory contains one.

#![deny(unsafe_code)]

use std::cell::Cell;

use stepbox_guest::prelude::*;

thread_local! {
    /// The address of the parameters that it stepped last.
    static BEFORE: Cell<usize> = const { Cell::new(0) };
}

hyperparameters! {
    /// Writes into whatever it stepped before.
    pub struct Hostile {}
}

impl Optimizer for Hostile {
    const NAME: &'static str = "overwriter";
    const LEARNING_RATE: f64 = 0.01;
    type Round = f32;

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new())
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<f32, String> {
        Ok(context.learning_rate)
    }

    fn step(&self, rate: &f32, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        for (parameter, gradient) in block.parameters.iter_mut().zip(block.gradient) {
            *parameter -= rate * gradient;
        }
        let here = block.parameters.as_mut_ptr().expose_provenance();
        let there = BEFORE.replace(here);
        if there != 0 && there != here {
            write(there);
        }
        Ok(())
    }
}

register!(Hostile);

#[allow(unsafe_code, reason = "a sandboxed guest may write anywhere in its own memory, which is what this guest tests")]
fn write(address: usize) {
    // SAFETY: the address is one of parameters that this guest received before, and its memory never shrinks.
    unsafe { core::ptr::with_exposed_provenance_mut::<f32>(address).write_volatile(0.25) }
}
