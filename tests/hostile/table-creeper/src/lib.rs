//! A hostile guest whose table grows without end. Rust cannot express that: a test replaces each `memory.grow` by
//! `MARK` pages with a `table.grow` of the same number of bytes.

#![cfg(target_arch = "wasm32")]

use hostile_kit::{Exports, Otherwise, types};

struct Guest;

/// A number of pages that no other code requests.
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
