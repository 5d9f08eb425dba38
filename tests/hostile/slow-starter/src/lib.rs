//! A hostile guest that spends most of a call's fuel on every tensor or slice that it prepares, and is otherwise
//! honest: trick `A` in `bind`, trick `B` in `plan`. With trick `C` it spends fuel in the trial so that large blocks
//! appear expensive, and from its fifth round on it spends all fuel it gets.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, forever, trick, types};

struct Guest;

/// At a few units of fuel per iteration, most of the ten million that a call has.
const TURNS: u32 = 1_000_000;

/// Largest number of elements in the smaller tensors of a trial.
const SMALL: u32 = 5000;

/// For each element of larger blocks: below what the limits permit in the trial.
const TURNS_PER_ELEMENT: u32 = 200;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
}

fn waste(turns: u32) {
    (0..turns).for_each(|turn| {
        std::hint::black_box(turn);
    });
}

impl Exports for Guest {
    const NAME: &'static str = "slow-starter";

    fn plan(hyperparameters: Vec<types::Value>, tensor: types::Tensor) -> Result<types::TensorPlan, String> {
        if trick() == 'B' {
            waste(TURNS);
        }
        Otherwise::plan(hyperparameters, tensor)
    }

    fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
        if trick() == 'A' {
            waste(TURNS);
        }
        Otherwise::bind(slice, hyperparameters)
    }

    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        STEP.set(context.tensor_step);
        Otherwise::begin(slice, phase, context)
    }

    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        if trick() == 'C' && STEP.get() >= 5 {
            forever();
        }
        if trick() == 'C' && block.elements > SMALL {
            waste(TURNS_PER_ELEMENT * block.elements);
        }
        Otherwise::step(slice, phase, block)
    }
}

hostile_kit::export!(Guest);
