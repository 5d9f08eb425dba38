//! A hostile guest. It does something when the server has read a step's result and lets it clean up: a function under
//! another name, which a test puts in the place of the one that is called then. The trick says what: `A` loops, `B` traps,
//! `C` writes into another slice from the fifth round on, `D` nothing.

#![cfg(target_arch = "wasm32")]
#![allow(unsafe_code, reason = "an export by name")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, floats, forever, slices, trick, types, write};

struct Guest;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
    /// Another number each time, or it would change nothing when it comes again.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl Exports for Guest {
    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        STEP.set(context.tensor_step);
        Otherwise::begin(slice, phase, context)
    }
}

/// Has the name's length, so that one can be put in the other's place in the component's bytes.
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
