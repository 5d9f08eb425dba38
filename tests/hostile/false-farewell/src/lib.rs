//! A hostile guest that acts after the server has read the result of a step and calls the cleanup function. A test
//! substitutes a second function for that one. The tricks: `A` loops, `B` traps, `C` writes into another slice from the
//! fifth round on, `D` does nothing.

#![cfg(target_arch = "wasm32")]
#![allow(unsafe_code, reason = "exports a function by name")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, floats, forever, slices, trick, types, write};

struct Guest;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
    /// A different number each time; otherwise a second call would change nothing.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl Exports for Guest {
    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        STEP.set(context.tensor_step);
        Otherwise::begin(slice, phase, context)
    }
}

/// The name has the same length as the original, so that a test can replace one with the other in the component's
/// bytes.
// SAFETY: nothing else has this name.
#[unsafe(export_name = "evil_post_stepbox:optimizer/optimizer@0.1.0#step")]
extern "C" fn farewell(_result: usize) {
    CALLS.set(CALLS.get() + 1);
    match (trick(), slices().last()) {
        ('A', _) => forever(),
        ('B', _) => core::arch::wasm32::unreachable(),
        ('C', Some(last)) if STEP.get() >= 5 => write(floats(&last.parameters).start, CALLS.get() as f32),
        _ => {}
    }
}

hostile_kit::export!(Guest);
