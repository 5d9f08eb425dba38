//! A hostile guest whose plan requests more than can be counted, placed or afforded.
//!
//! The tricks: `A` very many slots; `B` very many phases; `C` very many accumulators; `D` a shape whose product
//! overflows; `E` a slot whose bytes overflow although its elements do not; `F` several slots whose sum overflows; `G`
//! more than a 32-bit memory holds; `H` unlimited work space; `I` a shape with very many axes; `J` no phase; `K` the
//! same slot twice; `L` an accumulator that is read in a nonexistent phase; `M` runs that do not divide a chunk; `N` a
//! constant that is not a number.

#![cfg(target_arch = "wasm32")]

use hostile_kit::{Exports, Otherwise, trick, types};

struct Guest;

impl Exports for Guest {
    fn plan(hyperparameters: Vec<types::Value>, tensor: types::Tensor) -> Result<types::TensorPlan, String> {
        let mut plan = Otherwise::plan(hyperparameters, tensor)?;
        let named = |number: u32| types::Slot { name: format!("slot {number}"), ..plan.slots[0].clone() };
        let explicit = |shape: &[u64], element| types::Slot {
            extent: types::Extent::Explicit(shape.to_vec()),
            element,
            ..plan.slots[0].clone()
        };
        let accumulator = |read_from: u32| types::Accumulator {
            name: format!("sum {read_from}"),
            contributor: types::Contributor::Gradients,
            combination: types::Combination::Sum,
            scope: types::Scope::Tensor,
            contributed_in: 0,
            read_from,
        };
        let whole = |slots| types::TensorPlan { slots, granularity: types::Granularity::Tensor, ..plan.clone() };
        Ok(match trick() {
            'A' => types::TensorPlan { slots: (0..1000).map(named).collect(), ..plan },
            'B' => types::TensorPlan { phases: vec![plan.phases[0].clone(); 1000], ..plan },
            'C' => types::TensorPlan { accumulators: (0..1000).map(|_| accumulator(0)).collect(), ..plan },
            'D' => whole(vec![explicit(&[u64::MAX, 3], types::ElementType::U8)]),
            'E' => whole(vec![explicit(&[1 << 62], types::ElementType::F64)]),
            'F' => {
                let slot =
                    |name: &str| types::Slot { name: name.into(), ..explicit(&[1 << 60], types::ElementType::F64) };
                whole(vec![slot("a"), slot("b"), slot("c")])
            }
            'G' => whole(vec![explicit(&[3 << 30], types::ElementType::U32)]),
            'H' => types::TensorPlan { work_bytes: u64::MAX, ..plan },
            'I' => whole(vec![explicit(&[1; 4000], types::ElementType::U8)]),
            'J' => types::TensorPlan { phases: Vec::new(), ..plan },
            'K' => types::TensorPlan { slots: vec![plan.slots[0].clone(); 2], ..plan },
            'L' => types::TensorPlan { accumulators: vec![accumulator(u32::MAX)], ..plan },
            'M' => {
                plan.slots[0].extent = types::Extent::PerRun(3);
                plan
            }
            'N' => {
                plan.slots[0].initial = types::Initial::Constant(f64::NAN);
                plan
            }
            _ => plan,
        })
    }
}

hostile_kit::export!(Guest);
