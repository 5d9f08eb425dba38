//! A hostile guest. From its fifth round on it writes a finite number where it has no business: into another slice of its
//! memory, or into what of its own slice no call is about. The trick says where.
//!
//! `A` another slice's parameters; `B` its slot; `C` what lies right behind another slice, which
//! is nobody's; `D` its own earlier block; `E` its own gradient; `F` as `A`, and then
//! traps; `G` as `A`, in `bind`, when a third slice comes.

#![cfg(target_arch = "wasm32")]

use hostile_kit::{Exports, Otherwise, floats, slices, trick, types, write};

struct Guest;

/// The first round in which it misbehaves: the trial has fewer.
const ROUND: u64 = 5;

thread_local! {
    static STEP: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl Exports for Guest {
    fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
        let all = slices();
        if trick() == 'G' && all.len() == 2 {
            write(floats(&all[0].parameters).start + 8, 77.0);
        }
        Otherwise::bind(slice, hyperparameters)
    }

    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        STEP.set(context.tensor_step);
        Otherwise::begin(slice, phase, context)
    }

    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        Otherwise::step(slice, phase, block.clone())?;
        if STEP.get() < ROUND {
            return Ok(());
        }
        let all = slices();
        let own = &all[slice as usize];
        let other = all.iter().rev().find(|other| other.parameters.offset != own.parameters.offset);
        match (trick(), other) {
            ('A' | 'F', Some(other)) => write(floats(&other.parameters).end - 4, 77.0),
            ('B', Some(other)) => write(floats(&other.slots[0]).start + 4, 77.0),
            ('C', Some(other)) => write(floats(&other.slots[0]).end, 77.0),
            ('D', _) if block.start > 0 => write(floats(&own.parameters).start, 77.0),
            ('E', _) => (0..block.elements).for_each(|place| write((block.gradient + 4 * place) as usize, 77.0)),
            _ => {}
        }
        assert!(trick() != 'F' || other.is_none(), "and goes");
        Ok(())
    }
}

hostile_kit::export!(Guest);
