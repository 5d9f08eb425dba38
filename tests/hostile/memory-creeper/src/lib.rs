//! A hostile guest that leaks a little memory in each step from its fifth round on: it must eventually reach the limit,
//! without any effect on others.

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
            // Not written to: that would take more fuel than a step has.
            std::hint::black_box(Vec::<u8>::with_capacity(BYTES)).leak();
        }
        Otherwise::step(slice, phase, block)
    }
}

hostile_kit::export!(Guest);
