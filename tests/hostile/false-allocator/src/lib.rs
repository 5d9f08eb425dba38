//! A hostile guest with a second allocator, `evil_realloc`, which a test substitutes for the one that the server calls
//! for the memory of arguments. The guest also has a function that is called after the server has read results. The
//! tricks select where the server writes: `A` at 0; `B` past the end of the memory; `C` misaligned; `D` over the
//! guest's slices after four rounds; `E` nowhere, because the allocator traps; `F` nowhere, because it loops; `G` in
//! the last bytes that 32 bits can address.

#![cfg(target_arch = "wasm32")]
#![allow(unsafe_code, reason = "exports a function by name")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, forever, slices, trick, types};

struct Guest;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
}

impl Exports for Guest {
    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        STEP.set(context.tensor_step);
        Otherwise::begin(slice, phase, context)
    }
}

const PAGE: usize = 64 << 10;

/// The name has the same length as the original, so that a test can replace one with the other in the component's
/// bytes.
// SAFETY: nothing else has this name.
#[unsafe(export_name = "evil_realloc")]
extern "C" fn evil_realloc(_old: usize, _old_bytes: usize, alignment: usize, bytes: usize) -> usize {
    let end = core::arch::wasm32::memory_size(0) * PAGE;
    match trick() {
        'A' => 0,
        'B' => end,
        'C' if alignment > 1 => 1025,
        'D' if STEP.get() >= 4 => match slices().first() {
            Some(first) => first.parameters.offset as usize,
            None => (vec![0_u64; bytes.div_ceil(8)].leak().as_mut_ptr()).expose_provenance(),
        },
        'E' => core::arch::wasm32::unreachable(),
        'F' => forever(),
        'G' => usize::MAX - 7,
        _ => (vec![0_u64; bytes.div_ceil(8)].leak().as_mut_ptr()).expose_provenance(),
    }
}

hostile_kit::export!(Guest);
