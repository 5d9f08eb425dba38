//! A hostile guest. It spends as much fuel in a step as the slice's first parameter says: a turn for each 1.

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
