//! What memory a tensor costs on a server: the prediction that `stepbox inspect` prints and `docs/optimizers.md` lists.

use serde::Serialize;
use stepbox_sandbox::{Extent, Granularity, Plan};

/// Bytes of memory for each parameter of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Footprint {
    /// In the sandbox, always: the parameter and its slots.
    pub state: f64,
    /// The version that pulls read, always. None where rows are pulled, which are read from the sandbox.
    pub published: f64,
    /// From the first round on: the workers' gradients, whose memory is kept. Where rows are pushed, only while a round runs,
    /// and for parameters in rows that are touched.
    pub gradients: f64,
    /// While a round runs: what is needed to take it back, beyond gradients whose room is free by then, and for a new
    /// version beside the one that is read. Where rows are pushed, for parameters in rows that are touched.
    pub undo: f64,
}

impl Footprint {
    /// For a tensor of this plan, with so many workers whose gradients have so many bytes an element (4 for f32, 2 for bf16
    /// and f16). With `s` the bytes of slots for each parameter, `g` those of a gradient's element and `w` the workers:
    ///
    /// - `state` is `4 + s`, `published` 4, `gradients` `g · w`, and 4 more where no gradient's memory is large enough to
    ///   become that of new weights;
    /// - `undo`, where a round is one pass over elements: the parameters' is the published version. Each slot that is no
    ///   wider than a gradient's element is written over a gradient that has been used, of which one (of f32) becomes the
    ///   new weights; what is left of `s` then counts;
    /// - `undo`, where a round has several passes, and so needs the gradients to its end, or visits tensors whole: `4 + s`,
    ///   and 4 for the new version;
    /// - `undo` where rows are touched: `4 + s`.
    ///
    /// What does not grow with a tensor's parameters comes on top, for each shard thread: an instance's own memory, a block
    /// of gradient (or the largest tensor that is visited whole), and [`Plan::work_bytes`]. So do older versions, one for
    /// each connection at most, for as long as a slow pull still reads them; and where workers push the next round before
    /// the last one is settled, their gradients.
    pub fn of(plan: &Plan, workers: u32, gradient_bytes: u64) -> Self {
        let state = plan.bytes_per_parameter();
        let parameter = size_of::<f32>() as f64;
        let rows = plan.granularity == Granularity::TouchedRows;
        let weights = if gradient_bytes < 4 && !rows { parameter } else { 0.0 };
        let undo = match plan.granularity {
            Granularity::Elements if plan.takes_exchange() => state - parameter - lent(plan, workers, gradient_bytes),
            Granularity::TouchedRows => state,
            Granularity::Elements | Granularity::Tensor => state + parameter,
        };
        Self {
            state,
            published: if rows { 0.0 } else { parameter },
            gradients: gradient_bytes as f64 * f64::from(workers) + weights,
            undo,
        }
    }

    /// What a parameter costs before its first round.
    pub fn before_rounds(&self) -> f64 {
        self.state + self.published
    }

    /// What it costs while a round runs that reaches it: the most.
    pub fn in_a_round(&self) -> f64 {
        self.before_rounds() + self.gradients + self.undo
    }
}

/// Bytes of slots for each parameter that are written over gradients.
fn lent(plan: &Plan, workers: u32, gradient_bytes: u64) -> f64 {
    let buffers = if gradient_bytes >= 4 { workers.saturating_sub(1) } else { workers };
    let widths = plan.slots.iter().filter(|slot| slot.extent == Extent::PerElement).map(|slot| slot.element.bytes());
    let lent = widths.filter(|width| *width <= gradient_bytes).take(buffers as usize);
    lent.sum::<u64>() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepbox_sandbox::{Geometry, Initial, Phase, Slot, SlotType};

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
        // Halves have no room for it at all, nor for new weights.
        assert_eq!(Footprint::of(&adamw, 4, 2).in_a_round(), 8.0 + 4.0 + 16.0 + 8.0);
    }

    #[test]
    fn several_passes_keep_gradients_and_undo_at_the_same_time() {
        let footprint = Footprint::of(&plan(2, 2, Granularity::Elements), 4, 4);
        assert_eq!((footprint.undo, footprint.in_a_round()), (16.0, 48.0));
    }

    #[test]
    fn slots_go_over_gradients_that_are_as_wide() {
        let mut plan = plan(3, 1, Granularity::Elements);
        plan.slots[0].element = SlotType::F64;
        plan.slots[1].element = SlotType::U8;
        // The one of f64 goes nowhere.
        assert_eq!(Footprint::of(&plan, 4, 4).undo, 8.0);
        assert_eq!(Footprint::of(&plan, 2, 4).undo, 8.0 + 4.0);
        assert_eq!(Footprint::of(&plan, 4, 2).undo, 8.0 + 4.0);
    }

    #[test]
    fn rows_have_no_published_copy() {
        let footprint = Footprint::of(&plan(2, 1, Granularity::TouchedRows), 4, 4);
        assert_eq!((footprint.before_rounds(), footprint.in_a_round()), (12.0, 40.0));
    }
}
