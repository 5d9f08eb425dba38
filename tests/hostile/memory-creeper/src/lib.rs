//! A hostile guest. From its fifth round on it takes a little more memory in each step and never gives it back: must meet
//! the limit one day, and nobody else must notice.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, types};

struct Guest;

/// 16 pages.
const BYTES: usize = 1 << 20;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
}

impl Exports for Guest {
    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        STEP.set(context.tensor_step);
        Otherwise::begin(slice, phase, context)
    }

    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        if STEP.get() >= 5 {
            // Not written to: that takes more fuel than a step has.
            std::hint::black_box(Vec::<u8>::with_capacity(BYTES)).leak();
        }
        Otherwise::step(slice, phase, block)
    }
}

hostile_kit::export!(Guest);
