//! A hostile guest. Where the server asks for room, it is given a place that is none; the trick says which.
//!
//! `A` misaligned; `B` behind the end of the memory; `C` across that end; `D` the last bytes of what 32 bits can address,
//! so that sums overflow; `E` the same place each time; `F` half a place that was given before; `G` the bottom of the
//! memory, where the guest's own stack and data lie; `H` an error with each call.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, trick};

struct Guest;

const PAGE: usize = 64 << 10;

thread_local! {
    static FIRST: Cell<Option<u32>> = const { Cell::new(None) };
}

impl Exports for Guest {
    fn reserve(bytes: u32) -> Result<u32, String> {
        let end = (core::arch::wasm32::memory_size(0) * PAGE) as u32;
        let honest = Otherwise::reserve(bytes)?;
        let first = FIRST.get();
        FIRST.set(first.or(Some(honest)));
        Ok(match (trick(), first) {
            ('A', _) => honest + 4,
            ('B', _) => end,
            ('C', _) => end - 64,
            ('D', _) => u32::MAX - 63,
            ('E', Some(first)) => first,
            ('F', Some(first)) => first + 64,
            ('G', _) => 0,
            ('H', _) => return Err("there is no room for servers".into()),
            _ => honest,
        })
    }
}

hostile_kit::export!(Guest);
