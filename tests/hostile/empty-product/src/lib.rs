//! A hostile guest that makes the server multiply matrices without elements, whose product is large: there is nothing
//! to multiply, and much to write. The tricks select the location of the product: `A` outside the memory, `B` outside
//! the memory and added to the existing values, `C` inside the memory, repeatedly.

#![cfg(target_arch = "wasm32")]

use hostile_kit::stepbox_guest::component::bindings::stepbox::optimizer::linear_algebra::{Matrix, multiply};
use hostile_kit::{Exports, Otherwise, trick, types};

struct Guest;

/// Rows and columns of a product of 64 GiB.
const HUGE: u32 = 1 << 17;

/// Rows and columns of a product that fits in memory.
const LARGE: u32 = 256;

fn empty_product(side: u32, beta: f32, offset: u32) {
    let matrix = |rows, columns| Matrix { offset: 0, rows, columns, stride: columns, transposed: false };
    multiply(1.0, matrix(side, 0), matrix(0, side), beta, Matrix { offset, ..matrix(side, side) });
}

impl Exports for Guest {
    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        match trick() {
            'A' => empty_product(HUGE, 0.0, 0),
            'B' => empty_product(HUGE, 1.0, 0),
            _ => {
                let room = vec![0.0_f32; (LARGE * LARGE) as usize].leak();
                loop {
                    empty_product(LARGE, 0.0, room.as_mut_ptr().expose_provenance() as u32);
                }
            }
        }
        Otherwise::step(slice, phase, block)
    }
}

hostile_kit::export!(Guest);
