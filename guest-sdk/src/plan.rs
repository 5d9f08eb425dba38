//! Plans: what an optimizer needs for one tensor.

use std::ops::Range;

use crate::Tensor;
use crate::accumulator::{Accumulator, Combination, Contributor, Scope};
use crate::slot::{ElementType, Extent, Initial, Slot, StoredSlot};
use crate::statistics::CHUNK_ELEMENTS;

/// How a tensor may be cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// At any multiple of 4096 elements.
    Elements,
    /// At rows; only rows that received a gradient are visited.
    TouchedRows,
    /// Not at all: the tensor is one block.
    Tensor,
}

/// What an optimizer needs for one tensor: slots, phases, and the accumulators combined between phases.
///
/// ```
/// use stepbox_guest::{Accumulator, Plan, Slot};
/// const MEAN: Slot = Slot::zero("mean");
/// const UPDATE_NORM: Accumulator = Accumulator::sum_of_squares("update_norm");
/// let plan = Plan::new().slots(&[MEAN]).accumulators(&[UPDATE_NORM]).phases(&["mean", "apply"]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub(crate) slots: Vec<Slot>,
    pub(crate) accumulators: Vec<Accumulator>,
    /// Names of the phases that run in every round.
    pub(crate) phases: Vec<&'static str>,
    /// Positions of the phases that do not read the gradient.
    without_gradient: Vec<usize>,
    pub(crate) evaluation: Option<&'static str>,
    pub(crate) granularity: Granularity,
    pub(crate) work_bytes: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan {
    /// A plan without slots, with one phase that visits every element.
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            accumulators: Vec::new(),
            phases: vec!["update"],
            without_gradient: Vec::new(),
            evaluation: None,
            granularity: Granularity::Elements,
            work_bytes: 0,
        }
    }

    /// Adds slots.
    pub fn slots(mut self, slots: &[Slot]) -> Self {
        self.slots.extend_from_slice(slots);
        self
    }

    /// Adds accumulators.
    pub fn accumulators(mut self, accumulators: &[Accumulator]) -> Self {
        self.accumulators.extend_from_slice(accumulators);
        self
    }

    /// Replaces the default phase, `update`, with these phases, in the order in which they run.
    pub fn phases(mut self, names: &[&'static str]) -> Self {
        self.phases = names.to_vec();
        self
    }

    /// Declares that phase `phase`, counted from 0, does not read the gradient. The server need not provide the
    /// gradient again, and the contents of the block's gradient are undefined in this phase.
    pub fn without_gradient(mut self, phase: usize) -> Self {
        self.without_gradient.push(phase);
        self
    }

    /// Adds a phase, after the others, that computes evaluation weights with
    /// [`Block::evaluate`](crate::Block::evaluate) whenever they are requested. It does not run in rounds, and its
    /// writes to parameters and slots are undone.
    pub fn evaluation(mut self, name: &'static str) -> Self {
        self.evaluation = Some(name);
        self
    }

    /// Visits the tensor as one block. The optimizer allocates up to `work_bytes` bytes while it steps the tensor.
    pub fn whole_tensor(mut self, work_bytes: u64) -> Self {
        self.granularity = Granularity::Tensor;
        self.work_bytes = work_bytes;
        self
    }

    /// Visits only the rows that received a gradient. Requires a tensor with two or more axes, one phase and no
    /// accumulators.
    pub fn touched_rows(mut self) -> Self {
        self.granularity = Granularity::TouchedRows;
        self
    }

    pub(crate) fn reads_gradient(&self, phase: usize) -> bool {
        !self.without_gradient.contains(&phase)
    }

    /// Position of the phase that [`evaluation`](Self::evaluation) adds, which follows the others.
    pub(crate) fn evaluation_phase(&self) -> Option<usize> {
        self.evaluation.map(|_| self.phases.len())
    }

    /// The slots that the server keeps.
    pub(crate) fn stored_slots(&self) -> impl Iterator<Item = StoredSlot> {
        self.slots.iter().flat_map(Slot::stored)
    }

    /// Position of a slot among [`stored_slots`](Self::stored_slots), and the slot as planned.
    pub(crate) fn find(&self, slot: &Slot) -> Result<(usize, &Slot), String> {
        let mut position = 0;
        for planned in &self.slots {
            if planned.name == slot.name {
                return Ok((position, planned));
            }
            position += 1 + usize::from(planned.code.is_some());
        }
        Err(format!("slot {} is not in the plan of this tensor", slot.name))
    }

    pub(crate) fn find_accumulator(&self, accumulator: &Accumulator) -> Result<usize, String> {
        let found = self.accumulators.iter().position(|planned| planned.name == accumulator.name);
        found.ok_or_else(|| format!("accumulator {} is not in the plan of this tensor", accumulator.name))
    }

    /// Checks that the plan is consistent, with errors for the author. The server repeats the checks that it relies on.
    pub(crate) fn check(&self, tensor: &Tensor) -> Result<(), String> {
        let mut names: Vec<_> = self.stored_slots().map(|slot| slot.name).collect();
        while let Some(name) = names.pop() {
            if names.contains(&name) {
                return Err(format!("two slots are named {name}"));
            }
        }
        if self.phases.is_empty() {
            return Err("the plan has no phase".into());
        }
        if let Some(phase) = self.without_gradient.iter().find(|phase| **phase >= self.phases.len()) {
            return Err(format!("there is no phase {phase} that could do without gradient"));
        }
        for slot in &self.slots {
            self.check_slot(slot).map_err(|reason| format!("slot {} {reason}", slot.name))?;
        }
        for (index, accumulator) in self.accumulators.iter().enumerate() {
            let twice = self.accumulators[..index].iter().any(|other| other.name == accumulator.name);
            let checked = if twice { Err("is declared twice") } else { self.check_accumulator(accumulator) };
            checked.map_err(|reason| format!("accumulator {} {reason}", accumulator.name))?;
        }
        if self.granularity == Granularity::TouchedRows {
            if tensor.shape.len() < 2 {
                return Err("a tensor with fewer than two axes has no rows to be touched".into());
            }
            if self.phases.len() != 1 || self.evaluation.is_some() || !self.accumulators.is_empty() {
                return Err("touched rows are visited in one phase, without accumulators".into());
            }
        }
        Ok(())
    }

    fn check_slot(&self, slot: &Slot) -> Result<(), &'static str> {
        let per_run = slot.code.is_some() || matches!(slot.extent, Extent::PerRun(_));
        match slot.extent {
            Extent::PerRun(run) if run == 0 || !CHUNK_ELEMENTS.is_multiple_of(run as usize) => {
                Err("has runs that do not divide 4096")
            }
            Extent::Vector(_) | Extent::Matrix(..) if self.granularity != Granularity::Tensor => {
                Err("has a shape of its own, which is for tensors that are visited whole")
            }
            _ if per_run && self.granularity == Granularity::TouchedRows => {
                Err("has runs that rows do not end at, or is quantised in such runs")
            }
            extent if slot.code.is_some() && extent != Extent::PerElement => {
                Err("is quantised, and must have one element for each parameter")
            }
            extent
                if slot.initial == Initial::Parameter
                    && (slot.element, extent) != (ElementType::F32, Extent::PerElement) =>
            {
                Err("starts as a copy of the parameters, and must be like them")
            }
            _ => Ok(()),
        }
    }

    fn check_accumulator(&self, accumulator: &Accumulator) -> Result<(), &'static str> {
        let by_line = matches!(accumulator.scope, Scope::Row | Scope::Column);
        if accumulator.first_read() >= self.phases.len() {
            return Err("is read in no phase");
        }
        match accumulator.contributor {
            Contributor::Optimizer if accumulator.contributed_in >= accumulator.first_read() => {
                Err("is read before its contributions are complete")
            }
            Contributor::Optimizer => Ok(()),
            _ if by_line || accumulator.combination == Combination::Maximum => {
                Err("is one that only the optimizer can contribute to")
            }
            _ => Ok(()),
        }?;
        if by_line && self.granularity == Granularity::Tensor {
            return Err("adds up rows or columns of a tensor that the optimizer sees whole");
        }
        Ok(())
    }
}

/// The elements of a slot that belong to a run of the tensor's parameters, counted from the first element of the slot.
pub(crate) fn slot_range(extent: Extent, tensor: &Tensor, elements: Range<u64>) -> Range<u64> {
    match extent {
        Extent::PerElement => elements,
        Extent::PerRun(run) => elements.start / u64::from(run)..elements.end.div_ceil(u64::from(run)),
        Extent::PerRow => tensor.rows_of(elements),
        Extent::PerColumn => 0..tensor.columns(),
        Extent::Scalar => 0..1,
        Extent::Vector(count) => 0..count,
        Extent::Matrix(rows, columns) => 0..rows.saturating_mul(columns),
    }
}

/// The combined values of an accumulator that belong to a run of the tensor's parameters.
pub(crate) fn combined_range(scope: Scope, tensor: &Tensor, elements: Range<u64>) -> Range<u64> {
    match scope {
        Scope::Row => tensor.rows_of(elements),
        Scope::Column => 0..tensor.columns(),
        Scope::Tensor | Scope::Group | Scope::Model => 0..1,
    }
}

/// The indexes at which contributions for a run of the tensor's parameters are written, counted from the tensor's
/// first.
pub(crate) fn contribution_range(scope: Scope, tensor: &Tensor, elements: Range<u64>) -> Range<u64> {
    const CHUNK: u64 = CHUNK_ELEMENTS as u64;
    match scope {
        Scope::Row | Scope::Column => combined_range(scope, tensor, elements),
        Scope::Tensor | Scope::Group | Scope::Model => elements.start / CHUNK..elements.end.div_ceil(CHUNK),
    }
}
