//! A hostile guest. It spends most of a call's fuel for every tensor or slice that it is asked to prepare for, and is
//! honest otherwise: trick `A` in `bind`, `B` in `plan`. With trick `C` it spends in the trial what makes large blocks seem
//! dear, and from its fifth round on all that it gets.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, forever, trick, types};

struct Guest;

/// At a few units of fuel each, most of the ten million that a call has.
const TURNS: u32 = 1_000_000;

/// Elements of a trial's smaller tensors, at most.
const SMALL: u32 = 5000;

/// For each element of larger blocks: below what the limits allow in the trial.
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
