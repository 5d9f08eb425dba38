//! A hostile guest whose `reserve` returns an invalid place. The tricks select the place.
//!
//! `A` is misaligned; `B` is past the end of the memory; `C` extends past the end; `D` is the last bytes that 32 bits
//! can address, so that sums overflow; `E` is the same place each time; `F` overlaps half of a previous place; `G` is
//! the bottom of the memory, which contains the guest's stack and data; `H` is an error for each call.

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
