//! A hostile guest that visits touched rows and from its fifth round on also changes other rows.
//!
//! The tricks: `A` changes the parameters of the slice's last row; `B` the slot of that row; `C` nothing; `D` the
//! parameters of every second row and the slot of every third.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, floats, note, slices, trick, types, write};

struct Guest;

const ROUND: u64 = 5;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
}

impl Exports for Guest {
    const NAME: &'static str = "row-thief";

    fn plan(_: Vec<types::Value>, tensor: types::Tensor) -> Result<types::TensorPlan, String> {
        let rows = tensor.shape.len() > 1;
        Ok(types::TensorPlan {
            slots: vec![types::Slot {
                name: "visits".into(),
                element: types::ElementType::F32,
                extent: if rows { types::Extent::PerRow } else { types::Extent::PerElement },
                initial: types::Initial::Zero,
            }],
            accumulators: Vec::new(),
            phases: vec![types::Phase { name: "update".into(), purpose: types::Purpose::Update, reads_gradient: true }],
            granularity: if rows { types::Granularity::TouchedRows } else { types::Granularity::Elements },
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

    fn step(slice: u32, _: u32, block: types::Block) -> Result<(), String> {
        let own = &slices()[slice as usize];
        if let Some(rows) = block.rows {
            let columns = own.tensor.shape[1] as usize;
            let row = hostile_kit::read(rows as usize).to_bits() as usize;
            write(own.parameters.offset as usize + 4 * row * columns, 0.5);
            write(own.slots[0].offset as usize + 4 * row, 1.0);
        }
        if STEP.get() >= ROUND {
            match trick() {
                'A' => write(floats(&own.parameters).end - 4, 77.0),
                'B' => write(floats(&own.slots[0]).end - 4, 77.0),
                'D' => {
                    let (parameters, slot) = (floats(&own.parameters), floats(&own.slots[0]));
                    let columns = parameters.len() / slot.len();
                    (0..slot.len() / 4).step_by(2).for_each(|row| write(parameters.start + 4 * row * columns, 77.0));
                    (0..slot.len() / 4).step_by(3).for_each(|row| write(slot.start + 4 * row, 77.0));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

hostile_kit::export!(Guest);
