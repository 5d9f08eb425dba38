//! A hostile guest that is inconsistent: its second answer differs from the first.
//!
//! The tricks: `A` `describe` returns another name; `B` `plan` returns another slot within an instance; `C` `bind`
//! returns the number of another slice; `D` `bind` returns an invalid number; `E` steps depend on the number of steps
//! in the instance, which is hidden state.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, floats, read, slices, trick, types, write};

struct Guest;

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

fn is_first() -> bool {
    CALLS.set(CALLS.get() + 1);
    CALLS.get() == 1
}

impl Exports for Guest {
    fn describe() -> types::Description {
        let honest = Otherwise::describe();
        if trick() != 'A' || is_first() { honest } else { types::Description { name: "another".into(), ..honest } }
    }

    fn plan(hyperparameters: Vec<types::Value>, tensor: types::Tensor) -> Result<types::TensorPlan, String> {
        let mut honest = Otherwise::plan(hyperparameters, tensor)?;
        if trick() == 'B' && !is_first() {
            honest.slots[0].name = "another".into();
        }
        Ok(honest)
    }

    fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
        let honest = Otherwise::bind(slice, hyperparameters)?;
        Ok(match trick() {
            'C' => 0,
            'D' => honest + 1000,
            _ => honest,
        })
    }

    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        Otherwise::step(slice, phase, block)?;
        if trick() == 'E' {
            is_first();
            let place = floats(&slices()[slice as usize].parameters).start;
            write(place, read(place) + CALLS.get() as f32);
        }
        Ok(())
    }
}

hostile_kit::export!(Guest);
