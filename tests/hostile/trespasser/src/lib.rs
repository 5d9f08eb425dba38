//! A hostile guest that from its fifth round on, long after the trial, writes a finite number where it must not write.
//!
//! The tricks: `A` the last parameter of another slice; `B` the slot of another slice; `C` unused memory directly after
//! another slice; `D` the block before the given one in the same slice; `E` the whole gradient; `F` as `A`, followed by
//! a trap; `G` as `A`, but in `bind`, when another slice is bound after the fourth round; `H` the parameters of another
//! slice, but with the bytes already there.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, floats, read, slices, trick, types, write};

struct Guest;

const ROUND: u64 = 5;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
}

impl Exports for Guest {
    const NAME: &'static str = "trespasser";

    fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
        let all = slices();
        if trick() == 'G' && STEP.get() + 1 >= ROUND {
            write(floats(&all[0].parameters).start + 8, 77.0);
        }
        Otherwise::bind(slice, hyperparameters)
    }

    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        STEP.set(context.tensor_step);
        Otherwise::begin(slice, phase, context)
    }

    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        Otherwise::step(slice, phase, block)?;
        if STEP.get() < ROUND {
            return Ok(());
        }
        let all = slices();
        let own = &all[slice as usize];
        let other = all.iter().rev().find(|other| other.parameters.offset != own.parameters.offset);
        match (trick(), other) {
            ('A' | 'F', Some(other)) => write(floats(&other.parameters).end - 4, 77.0),
            ('B', Some(other)) => write(floats(&other.slots[0]).start + 4, 77.0),
            ('C', Some(other)) => write(floats(&other.slots[0]).end.next_multiple_of(64), 77.0),
            ('D', _) if block.start > 0 => write(floats(&own.parameters).start, 77.0),
            ('E', _) => (0..block.elements).for_each(|place| write((block.gradient + 4 * place) as usize, 77.0)),
            ('H', Some(other)) => floats(&other.parameters).step_by(4).for_each(|place| write(place, read(place))),
            _ => {}
        }
        assert!(trick() != 'F' || other.is_none(), "and goes");
        Ok(())
    }
}

hostile_kit::export!(Guest);
