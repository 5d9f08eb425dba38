//! A hostile guest. Its table grows without end. Rust has no word for that: a test puts `table.grow` in the place of each
//! `memory.grow` by `MARK` pages, in as many bytes.

#![cfg(target_arch = "wasm32")]

use hostile_kit::{Exports, Otherwise, types};

struct Guest;

/// Pages that nobody asks for otherwise.
const MARK: usize = 0x7fff_0001;

impl Exports for Guest {
    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        for _ in 0..64 {
            core::arch::wasm32::memory_grow::<0>(MARK);
        }
        Otherwise::step(slice, phase, block)
    }
}

hostile_kit::export!(Guest);
