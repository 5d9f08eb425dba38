//! A hostile guest whose phase of purpose evaluation does more than compute weights. The tricks: `A` changes the
//! parameters and slot of the same slice; `B` changes the parameters of another slice; `C` returns NaN; `D` returns
//! infinity; `E` traps after it has changed everything; `F` only computes weights.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, floats, note, slices, trick, types, write};

struct Guest;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
}

impl Exports for Guest {
    fn plan(_: Vec<types::Value>, _: types::Tensor) -> Result<types::TensorPlan, String> {
        let phase = |name: &str, purpose| types::Phase { name: name.into(), purpose, reads_gradient: true };
        Ok(types::TensorPlan {
            slots: vec![types::Slot {
                name: "velocity".into(),
                element: types::ElementType::F32,
                extent: types::Extent::PerElement,
                initial: types::Initial::Zero,
            }],
            accumulators: Vec::new(),
            phases: vec![phase("update", types::Purpose::Update), phase("evaluate", types::Purpose::Evaluation)],
            granularity: types::Granularity::Elements,
            work_bytes: 0,
        })
    }

    fn bind(slice: types::Slice, _: Vec<types::Value>) -> Result<u32, String> {
        Ok(note(slice))
    }

    fn begin(_: u32, _: u32, context: types::Context) -> Result<(), String> {
        STEP.set(context.tensor_step);
        Ok(())
    }

    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        let all = slices();
        let own = &all[slice as usize];
        if phase == 0 {
            write((own.parameters.offset + 4 * block.start) as usize, STEP.get() as f32);
            return Ok(());
        }
        (0..block.elements).for_each(|place| write((block.gradient + 4 * place) as usize, 1.5));
        if STEP.get() < 5 {
            return Ok(());
        }
        let other = all.iter().rev().find(|other| other.parameters.offset != own.parameters.offset);
        match (trick(), other) {
            ('A' | 'E', _) => {
                write(floats(&own.parameters).start, 77.0);
                write(floats(&own.slots[0]).start, 77.0);
            }
            ('B', Some(other)) => write(floats(&other.parameters).start, 77.0),
            ('C', _) => write(block.gradient as usize, f32::NAN),
            ('D', _) => write(block.gradient as usize, f32::INFINITY),
            _ => {}
        }
        assert!(trick() != 'E', "and goes");
        Ok(())
    }
}

hostile_kit::export!(Guest);
