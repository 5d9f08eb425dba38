//! A hostile guest that acts during instantiation, before the server has called anything. The tricks: `A` loops, `B`
//! traps, `C` allocates memory without end.

#![cfg(target_arch = "wasm32")]
#![allow(unsafe_code, reason = "exports a function by name")]

use hostile_kit::{Exports, forever, trick};

struct Guest;

impl Exports for Guest {}

/// The function that component tools call at instantiation.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    match trick() {
        'A' => forever(),
        'B' => core::arch::wasm32::unreachable(),
        'C' => while core::arch::wasm32::memory_grow(0, 16) != usize::MAX {},
        _ => {}
    }
}

hostile_kit::export!(Guest);
