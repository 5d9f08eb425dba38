//! A hostile guest. It has an allocator under another name, `evil_realloc`, which a test puts in the place of the one that
//! the server asks for room for arguments; and a function that is called when the server has read results. The trick says
//! where it has the server write: `A` at 0, `B` behind the end of the memory, `C` misaligned, `D` over its own slices once four
//! rounds are over, `E`
//! nowhere: it traps; `F` nowhere: it loops; `G` the last bytes that 32 bits can address.

#![cfg(target_arch = "wasm32")]
#![allow(unsafe_code, reason = "an export by name")]

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

/// Has the name's length, so that one can be put in the other's place in the component's bytes.
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
