//! A guest whose first parameter in the slice sets the fuel that a step spends: one iteration of a loop for each 1.

#![cfg(target_arch = "wasm32")]

use hostile_kit::{Exports, Otherwise, floats, read, slices, types};

struct Guest;

impl Exports for Guest {
    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        let turns = read(floats(&slices()[slice as usize].parameters).start) as u64;
        (0..turns).for_each(|turn| {
            std::hint::black_box(turn);
        });
        Otherwise::step(slice, phase, block)
    }
}

hostile_kit::export!(Guest);
