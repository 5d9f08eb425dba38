//! A hostile guest with an export that never returns. The tricks select the export: `A` describe, `B` plan, `C`
//! reserve, `D` bind, `E` begin, `F` step. `G` is step from its fifth round on, after the trial, and `K` is begin from
//! then on. `H` is plan, `I` reserve and `J` bind, only for tensors of the model, which the guest recognizes by their
//! sizes. (`describe` is not called after the trial.) `L` is step, except for tensors with the name that a trial's
//! tensors once had.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, Otherwise, forever, slices, trick, types};

struct Guest;

thread_local! {
    static LATE: Cell<bool> = const { Cell::new(false) };
    /// Whether a tensor of the model was bound in this instance.
    static IN_EARNEST: Cell<bool> = const { Cell::new(false) };
}

/// Bytes that only a slice of a large tensor of the model takes: tensors of a trial have fewer than 32,768 elements.
const MORE_THAN_IN_A_TRIAL: u32 = 400_000;

fn is_in_earnest(tensor: &types::Tensor) -> bool {
    let elements: u64 = tensor.shape.iter().product();
    (5000..=6000).contains(&elements) || elements >= 100_000
}

fn is_named_as_in_a_trial(slice: u32) -> bool {
    slices()[slice as usize].tensor.name.starts_with("trial")
}

impl Exports for Guest {
    fn describe() -> types::Description {
        if trick() == 'A' {
            forever();
        }
        Otherwise::describe()
    }

    fn plan(hyperparameters: Vec<types::Value>, tensor: types::Tensor) -> Result<types::TensorPlan, String> {
        if trick() == 'B' || (trick() == 'H' && is_in_earnest(&tensor)) {
            forever();
        }
        Otherwise::plan(hyperparameters, tensor)
    }

    fn reserve(bytes: u32) -> Result<u32, String> {
        let is_in_earnest = IN_EARNEST.get() || bytes >= MORE_THAN_IN_A_TRIAL;
        if trick() == 'C' || (trick() == 'I' && is_in_earnest) {
            forever();
        }
        Otherwise::reserve(bytes)
    }

    fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
        let is_in_earnest = is_in_earnest(&slice.tensor);
        IN_EARNEST.set(is_in_earnest);
        if trick() == 'D' || (trick() == 'J' && is_in_earnest) {
            forever();
        }
        Otherwise::bind(slice, hyperparameters)
    }

    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        LATE.set(context.tensor_step >= 5);
        if trick() == 'E' || (trick() == 'K' && LATE.get()) {
            forever();
        }
        Otherwise::begin(slice, phase, context)
    }

    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        if trick() == 'F' || (trick() == 'G' && LATE.get()) || (trick() == 'L' && !is_named_as_in_a_trial(slice)) {
            forever();
        }
        Otherwise::step(slice, phase, block)
    }
}

hostile_kit::export!(Guest);
