//! A hostile guest that spends more fuel from block to block from its fifth round on, and runs out of fuel in a late
//! block, after the preceding blocks have been stepped.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, forever, types};

struct Guest;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
}

impl Exports for Guest {
    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        STEP.set(context.tensor_step);
        Otherwise::begin(slice, phase, context)
    }

    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        Otherwise::step(slice, phase, block)?;
        if STEP.get() >= 5 {
            (0..u64::from(block.start) * 2).for_each(|turn| {
                std::hint::black_box(turn);
            });
            if block.start >= 5 * 4096 {
                forever();
            }
        }
        Ok(())
    }
}

hostile_kit::export!(Guest);
