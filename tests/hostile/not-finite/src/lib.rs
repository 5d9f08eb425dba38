//! A hostile guest that leaves non-finite numbers from its fifth round on. The tricks cover parameters, slots of each
//! floating-point type, and contributions to an accumulator.
//!
//! Parameters: `A` NaN, `B` infinity, `C` negative infinity. A slot of `f32`: `D`, `E`, `F`, in the same order. A slot
//! of `f64`: `G`, `H`. A slot of `bf16`: `I`, `J`. A slot that all slices share: `K`. Contributions: `L` NaN, `M`
//! infinity. Finite contributions past the end of their view: `N`.

#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

use hostile_kit::{Exports, note, slices, trick, types, write};

struct Guest;

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
}

fn slot(name: &str, element: types::ElementType, extent: types::Extent) -> types::Slot {
    types::Slot { name: name.into(), element, extent, initial: types::Initial::Zero }
}

impl Exports for Guest {
    fn plan(_: Vec<types::Value>, _: types::Tensor) -> Result<types::TensorPlan, String> {
        use types::{ElementType, Extent};

        let phase =
            |name: &str| types::Phase { name: name.into(), purpose: types::Purpose::Update, reads_gradient: true };
        Ok(types::TensorPlan {
            slots: vec![
                slot("single", ElementType::F32, Extent::PerElement),
                slot("double", ElementType::F64, Extent::PerElement),
                slot("half", ElementType::Bf16, Extent::PerElement),
                slot("shared", ElementType::F32, Extent::Scalar),
            ],
            accumulators: vec![types::Accumulator {
                name: "sum".into(),
                contributor: types::Contributor::Optimizer,
                combination: types::Combination::Sum,
                scope: types::Scope::Tensor,
                contributed_in: 0,
                read_from: 1,
            }],
            phases: vec![phase("first"), phase("second")],
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
        let own = &slices()[slice as usize];
        let parameters = own.parameters.offset + 4 * block.start;
        write(parameters as usize, 0.25);
        if phase != 0 || STEP.get() < 5 {
            return Ok(());
        }
        // In the middle of the block; for wider types, the upper half.
        let at = |view: &types::View, width: u32| (view.offset + width * (block.start + block.elements / 2)) as usize;
        let nan = f32::from_bits(0x7fff_ffff);
        // Two adjacent bf16 elements, the second with all bits of the exponent set.
        let halves = |upper: u32| f32::from_bits(upper << 16);
        match trick() {
            'A' => write(at(&own.parameters, 4), nan),
            'B' => write(at(&own.parameters, 4), f32::INFINITY),
            'C' => write(at(&own.parameters, 4), f32::NEG_INFINITY),
            'D' => write(at(&own.slots[0], 4), nan),
            'E' => write(at(&own.slots[0], 4), f32::INFINITY),
            'F' => write(at(&own.slots[0], 4), f32::NEG_INFINITY),
            'G' => write(at(&own.slots[1], 8) + 4, f32::from_bits(0x7ff8_0000)),
            'H' => write(at(&own.slots[1], 8) + 4, f32::from_bits(0xfff0_0000)),
            'I' => write(at(&own.slots[2], 2) & !3, halves(0x7fc0)),
            'J' => write(at(&own.slots[2], 2) & !3, halves(0xff80)),
            'K' => write(own.slots[3].offset as usize, nan),
            'L' => write(own.contributions[0].offset as usize + 4, f32::from_bits(0x7ff8_0000)),
            'M' => write(own.contributions[0].offset as usize + 4, f32::from_bits(0x7ff0_0000)),
            'N' => write((own.contributions[0].offset + 8 * own.contributions[0].elements) as usize, 1.0),
            _ => {}
        }
        Ok(())
    }
}

hostile_kit::export!(Guest);
