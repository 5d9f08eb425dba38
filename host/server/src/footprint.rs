//! What memory a tensor costs on a server: the prediction that `stepbox inspect` prints and `docs/optimizers.md` lists.

use serde::Serialize;
use stepbox_sandbox::{Granularity, Plan};

/// Bytes of memory for each parameter of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Footprint {
    /// In the sandbox, always: the parameter and its slots.
    pub state: f64,
    /// The version that pulls read, always. None where rows are pulled, which are read from the sandbox.
    pub published: f64,
    /// While a round runs: the workers' gradients. Where rows are pushed, only for parameters in rows that are touched.
    pub gradients: f64,
    /// While a round runs: what is needed to take it back, beyond gradients whose room is free by then. Where rows are
    /// pushed, as for gradients.
    pub undo: f64,
}

impl Footprint {
    /// For a tensor of this plan, with so many workers whose gradients have so many bytes an element (4 for f32, 2 for bf16
    /// and f16). With `s` the bytes of slots for each parameter, `g` those of a gradient's element and `w` the workers:
    ///
    /// - `state` is `4 + s`, `published` 4, `gradients` `g · w`;
    /// - `undo`, where a round is one pass: the parameters' is the published version. The slots' is written over gradients
    ///   that have been used, all but one of which are free, so it is `max(0, s − g · (w − 1))`;
    /// - `undo`, where a round has several passes and so needs the gradients to its end: `4 + s`.
    ///
    /// What does not grow with a tensor's parameters comes on top, for each shard thread: an instance's own memory, a block
    /// of gradient (or the largest tensor that is visited whole), and [`Plan::work_bytes`]. So does a second published
    /// version, for as long as a slow pull still reads the one before.
    pub fn of(plan: &Plan, workers: u32, gradient_bytes: u64) -> Self {
        let state = plan.bytes_per_parameter();
        let parameter = size_of::<f32>() as f64;
        let (gradient, workers) = (gradient_bytes as f64, f64::from(workers));
        Self {
            state,
            published: if plan.granularity == Granularity::TouchedRows { 0.0 } else { parameter },
            gradients: gradient * workers,
            undo: match plan.is_one_pass() {
                true => (state - parameter - gradient * (workers - 1.0).max(0.0)).max(0.0),
                false => state,
            },
        }
    }

    /// What a parameter costs at rest.
    pub fn at_rest(&self) -> f64 {
        self.state + self.published
    }

    /// What it costs while a round runs that reaches it: the most.
    pub fn in_a_round(&self) -> f64 {
        self.at_rest() + self.gradients + self.undo
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepbox_sandbox::{Extent, Geometry, Initial, Phase, Slot, SlotType};

    fn plan(slots: usize, phases: usize, granularity: Granularity) -> Plan {
        let slot = |index| Slot {
            name: format!("slot{index}"),
            element: SlotType::F32,
            extent: Extent::PerElement,
            initial: Initial::Zero,
        };
        let phase = |index| Phase { name: format!("phase{index}"), reads_gradient: true };
        Plan {
            slots: (0..slots).map(slot).collect(),
            accumulators: Vec::new(),
            phases: (0..phases).map(phase).collect(),
            evaluation: None,
            granularity,
            work_bytes: 0,
            geometry: Geometry::of(&[64, 64]).expect("a small tensor"),
        }
    }

    #[test]
    fn a_parameter_of_adamw_costs_sixteen_bytes_and_a_gradient_of_each_worker() {
        let adamw = plan(2, 1, Granularity::Elements);
        for workers in 3..10 {
            assert_eq!(Footprint::of(&adamw, workers, 4).in_a_round(), f64::from(4 * workers + 16));
        }
        // With few workers their gradients have no room for the slots' undo.
        assert_eq!(Footprint::of(&adamw, 1, 4).in_a_round(), 4.0 + 16.0 + 8.0);
        assert_eq!(Footprint::of(&adamw, 2, 4).in_a_round(), 8.0 + 16.0 + 4.0);
        assert_eq!(Footprint::of(&adamw, 4, 2).in_a_round(), 8.0 + 16.0 + 2.0);
    }

    #[test]
    fn several_passes_keep_gradients_and_undo_at_the_same_time() {
        let footprint = Footprint::of(&plan(2, 2, Granularity::Elements), 4, 4);
        assert_eq!((footprint.undo, footprint.in_a_round()), (12.0, 44.0));
    }

    #[test]
    fn rows_have_no_published_copy() {
        let footprint = Footprint::of(&plan(2, 1, Granularity::TouchedRows), 4, 4);
        assert_eq!((footprint.at_rest(), footprint.in_a_round()), (12.0, 28.0));
    }
}
