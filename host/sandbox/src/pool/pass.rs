//! One pass over one slice: a phase block after block, the server's own statistics, evaluation weights.

use std::ops::Range;

use crate::contract::accumulators::{Accumulators, Contributions};
use crate::contract::bindings::types;
use crate::contract::context::StepContext;
use crate::contract::declarations::{Contributor, Granularity, Scope, SlotType};
use crate::contract::statistics;
use crate::error::{Found, NotInMemory, StepError};
use crate::instance::component::AdmittedComponent;
use crate::pool::placement::Placement;
use crate::slice::BoundSlice;
use crate::slice::finite::{copy_finite, first_not_finite};
use crate::slice::parts::{RowsApart, StatePart};
use crate::slice::seal::CopyTo;
use crate::slice::seals::SliceSeals;

/// Fills a part of the aggregated gradient: the range of elements of the slice, and where to write them.
pub type GradientSource<'a> = dyn FnMut(Range<usize>, &mut [f32]) + 'a;

/// What a pass over a slice works with.
pub(crate) struct Pass<'a> {
    pub(crate) component: &'a AdmittedComponent,
    pub(crate) placement: &'a mut Placement,
    pub(crate) slice: &'a BoundSlice,
    pub(crate) seals: &'a mut SliceSeals,
    /// Whether the slice is known to be what was left in it.
    pub(crate) is_unchanged: bool,
    /// Set where all of the slice was looked at, and nobody called since.
    pub(crate) is_looked_through: bool,
    /// The most fuel that one call used.
    pub(crate) most_fuel: u64,
}

impl Pass<'_> {
    /// Runs a phase of purpose update over all blocks.
    pub(crate) fn phase(
        &mut self,
        phase: u32,
        context: &StepContext,
        accumulators: &mut Accumulators,
        gradient: &mut GradientSource<'_>,
    ) -> Result<Contributions, StepError> {
        self.hand_over(phase, accumulators)?;
        self.verify_all(shared_slots(self.slice))?;
        self.begin(phase, context)?;
        let reads_gradient = self.slice.plan.phases[phase as usize].reads_gradient;
        let mut blocks = 0;
        for block in self.blocks()? {
            // Right before it is used: it comes into the caches only once.
            self.verify_all(parts_of_block(self.slice, block.clone()))?;
            if reads_gradient {
                self.write_gradient(block.clone(), gradient)?;
            }
            self.step(phase, block.clone())?;
            self.seal_all(parts_of_block(self.slice, block))?;
            blocks += 1;
        }
        self.seal_all(shared_slots(self.slice))?;
        // The next block's call can change what was looked at after this one's.
        self.is_looked_through = blocks == 1;
        self.collect(phase, accumulators)
    }

    /// The only phase over the whole slice in one call, whose gradient is in the scratch already.
    pub(crate) fn whole_slice(&mut self, context: &StepContext) -> Result<(), StepError> {
        self.begin(0, context)?;
        self.step(0, 0..self.slice.elements())
    }

    /// Makes sure that what the optimizer has left is finite, copies the parameters to `out` on the way, and seals it all
    /// where that is to be done now.
    pub(crate) fn read_out(&mut self, out: &mut [u8], seal: bool) -> Result<(), StepError> {
        let mut parts = self.slice.parts();
        let parameters = parts.next().ok_or(NotInMemory)?;
        if seal {
            self.seal_all(parts)?;
            self.seal_copying(&parameters, CopyTo::Over(out))?;
        } else {
            parts.try_for_each(|part| self.check_finite(&part))?;
            let memory = self.placement.instance.memory();
            let values = memory.floats(parameters.bytes().start, parameters.elements.len())?;
            if !copy_finite(values, out) {
                self.check_finite(&parameters)?;
            }
        }
        self.is_looked_through = true;
        Ok(())
    }

    /// Gathers the statistics that the server itself contributes and that this phase is the first to read.
    pub(crate) fn statistics(
        &mut self,
        phase: u32,
        gradient: &mut GradientSource<'_>,
    ) -> Result<Contributions, StepError> {
        let plan = &self.slice.plan;
        let mut chunks = vec![Vec::new(); plan.accumulators.len()];
        let wanted = |contributor| {
            let fits = move |index: &usize| {
                let accumulator = &plan.accumulators[*index];
                accumulator.read_from == phase && accumulator.contributor == contributor
            };
            (0..plan.accumulators.len()).filter(fits).collect::<Vec<_>>()
        };
        let (of_parameters, of_gradients) = (wanted(Contributor::Parameters), wanted(Contributor::Gradients));
        for block in self.blocks()? {
            if !of_parameters.is_empty() {
                self.verify_all(parts_of_block(self.slice, block.clone()).take(1))?;
            }
            let parameters = self.slice.layout.parameters.part(block.clone());
            let memory = self.placement.instance.memory();
            let parameters = memory.floats(parameters.start, block.len())?;
            for index in &of_parameters {
                chunks[*index].extend(statistics::of_chunks(plan.accumulators[*index].combination, parameters));
            }
            if !of_gradients.is_empty() {
                let gradient = self.write_gradient(block, gradient)?;
                for index in &of_gradients {
                    chunks[*index].extend(statistics::of_chunks(plan.accumulators[*index].combination, gradient));
                }
            }
        }
        Ok(Contributions { chunks })
    }

    /// Runs the phase of purpose evaluation and writes what it gives to `out`, as little-endian `f32`. Parameters and
    /// slots are the caller's to put back.
    pub(crate) fn evaluation(&mut self, phase: u32, context: &StepContext, out: &mut [u8]) -> Result<(), StepError> {
        let gradient = self.placement.scratch()?.gradient as usize;
        self.begin(phase, context)?;
        for block in self.blocks()? {
            let bytes = block.start * size_of::<f32>()..block.end * size_of::<f32>();
            self.step(phase, block.clone())?;
            let written = self.placement.instance.memory().bytes(gradient..gradient + bytes.len())?;
            if let Some((position, value)) = SlotType::F32.first_not_finite(written) {
                let index = (block.start + position) as u64;
                return Err(StepError::NotFinite { what: "evaluation weight".into(), index, value });
            }
            out[bytes].copy_from_slice(written);
        }
        Ok(())
    }

    /// Runs the only phase over these rows of the slice, which are in ascending order and without repetition.
    pub(crate) fn rows(
        &mut self,
        rows: &[u32],
        context: &StepContext,
        gradient: &mut GradientSource<'_>,
    ) -> Result<(), StepError> {
        let scratch = self.placement.scratch()?;
        let columns = self.slice.plan.geometry.columns as usize;
        self.begin(0, context)?;
        // The scratch may have been made for another tensor's rows.
        let at_once = (scratch.row_count as usize).min(scratch.elements as usize / columns.max(1)).max(1);
        let mut done = 0;
        for listed in rows.chunks(at_once) {
            let positions = done * columns..(done + listed.len()) * columns;
            done += listed.len();
            let elements = positions.len();
            self.write_gradient(positions, gradient)?;
            let memory = self.placement.instance.memory_mut();
            let numbers = scratch.rows as usize..scratch.rows as usize + size_of_val(listed);
            let (places, _) = memory.bytes_mut(numbers)?.as_chunks_mut::<4>();
            places.iter_mut().zip(listed).for_each(|(place, row)| *place = row.to_le_bytes());
            let block = types::Block {
                start: 0,
                elements: elements as u32,
                gradient: scratch.gradient,
                rows: Some(scratch.rows),
            };
            self.call_step(0, block, elements)?;
            self.seal_all(self.slice.touched(listed))?;
        }
        self.seal_all(shared_slots(self.slice))
    }

    fn begin(&mut self, phase: u32, context: &StepContext) -> Result<(), StepError> {
        let fuel = self.component.begin_fuel(self.slice.layout.shared_elements(&self.slice.plan));
        Ok(self.placement.instance.begin(self.slice.handle, phase, context.raw(), fuel)?)
    }

    /// The blocks of a plan that is not one of rows.
    fn blocks(&self) -> Result<impl Iterator<Item = Range<usize>> + use<>, StepError> {
        let scratch = self.placement.scratch()?;
        let elements = self.slice.elements();
        let length = match self.slice.plan.granularity {
            Granularity::Tensor => elements.max(1),
            _ => scratch.elements.min(self.component.block_elements()) as usize,
        };
        Ok((0..elements).step_by(length).map(move |start| start..elements.min(start + length)))
    }

    /// Fills the scratch with the gradient of a range and makes sure that it is finite.
    fn write_gradient(&mut self, range: Range<usize>, gradient: &mut GradientSource<'_>) -> Result<&[f32], StepError> {
        let scratch = self.placement.scratch()?;
        if range.len() > scratch.elements as usize {
            return Err(NotInMemory.into());
        }
        let memory = self.placement.instance.memory_mut();
        let target = memory.floats_mut(scratch.gradient as usize, range.len())?;
        gradient(range.clone(), target);
        match first_not_finite(target) {
            Some(position) => {
                Err(StepError::GradientNotFinite { index: (range.start + position) as u64, value: target[position] })
            }
            None => Ok(target),
        }
    }

    fn step(&mut self, phase: u32, block: Range<usize>) -> Result<(), StepError> {
        let scratch = self.placement.scratch()?;
        let raw = types::Block {
            start: block.start as u32,
            elements: block.len() as u32,
            gradient: scratch.gradient,
            rows: None,
        };
        self.call_step(phase, raw, block.len())
    }

    fn call_step(&mut self, phase: u32, block: types::Block, elements: usize) -> Result<(), StepError> {
        let budget = self.component.step_budget(&self.slice.plan, elements as u64);
        self.placement.instance.step(self.slice.handle, phase, block, budget)?;
        self.most_fuel = self.most_fuel.max(self.placement.instance.fuel_used(budget));
        Ok(())
    }

    /// Before a phase: what it is the first to read goes to where it is read, and what it contributes to starts from
    /// what the slices before have given, or from nothing.
    fn hand_over(&mut self, phase: u32, accumulators: &Accumulators) -> Result<(), StepError> {
        let BoundSlice { plan, layout, .. } = self.slice;
        let memory = self.placement.instance.memory_mut();
        for (index, accumulator) in plan.accumulators.iter().enumerate() {
            // Again in each phase: others were called since, who might have written there.
            if accumulator.read_from <= phase {
                let numbers = here(accumulators.values(index), accumulator.scope, &layout.rows);
                layout.combined[index].write_numbers(memory, numbers)?;
            }
            if accumulator.contributor == (Contributor::Optimizer { phase }) {
                let view = &layout.contributions[index];
                match accumulator.scope {
                    Scope::Row | Scope::Column => {
                        let numbers = here(accumulators.values(index), accumulator.scope, &layout.rows);
                        view.write_numbers(memory, numbers)?;
                    }
                    Scope::Tensor | Scope::Group | Scope::Model => {
                        let nothing = vec![statistics::nothing(accumulator.combination); view.elements()];
                        view.write_numbers(memory, &nothing)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// After a phase: what the optimizer has contributed, which must be numbers.
    fn collect(&self, phase: u32, accumulators: &mut Accumulators) -> Result<Contributions, StepError> {
        let BoundSlice { plan, layout, .. } = self.slice;
        let mut chunks = vec![Vec::new(); plan.accumulators.len()];
        for index in Accumulators::contributed_in(plan, phase) {
            let accumulator = &plan.accumulators[index];
            let numbers = layout.contributions[index].read_numbers(self.placement.instance.memory())?;
            // Rows and columns that no slice has come to yet are at nothing, which for a maximum is no number.
            let nothing = statistics::nothing(accumulator.combination);
            let by_part = matches!(accumulator.scope, Scope::Row | Scope::Column);
            let wrong = |number: &f64| !(number.is_finite() || (by_part && *number == nothing));
            if let Some(position) = numbers.iter().position(wrong) {
                let what = format!("contribution to accumulator {},", accumulator.name);
                return Err(StepError::NotFinite { what, index: position as u64, value: numbers[position] });
            }
            match accumulator.scope {
                Scope::Row | Scope::Column => {
                    here_mut(accumulators.values_mut(index), accumulator.scope, &layout.rows).copy_from_slice(&numbers);
                }
                Scope::Tensor | Scope::Group | Scope::Model => chunks[index] = numbers,
            }
        }
        Ok(Contributions { chunks })
    }

    /// Makes sure that nobody has written to parts of the slice since they were left.
    fn verify_all(&mut self, mut parts: impl Iterator<Item = StatePart>) -> Result<(), StepError> {
        if self.is_unchanged {
            return Ok(());
        }
        let memory = self.placement.instance.memory();
        parts.try_for_each(|part| {
            let intact = self.seals.verify(memory, &part, CopyTo::Nowhere)?;
            let optimizer = &self.component.description().name;
            intact.map_err(|broken| self.slice.tampering(optimizer, broken, Found::BeforeStep).into())
        })
    }

    /// Seals parts of the slice as the optimizer has left them: finite. Parameters and slots must be that: a slot that is
    /// not would freeze a parameter for ever, or end in a round that fails, and fails again each time it is tried.
    fn seal_all(&mut self, mut parts: impl Iterator<Item = StatePart>) -> Result<(), StepError> {
        parts.try_for_each(|part| self.seal_copying(&part, CopyTo::Nowhere))
    }

    fn seal_copying(&mut self, part: &StatePart, copy: CopyTo<'_>) -> Result<(), StepError> {
        let is_float = part.element == SlotType::F32;
        let memory = self.placement.instance.memory();
        let finite = self.seals.seal_looking(memory, part, is_float, copy)?;
        if is_float && finite { Ok(()) } else { self.check_finite(part) }
    }

    fn check_finite(&self, part: &StatePart) -> Result<(), StepError> {
        let memory = self.placement.instance.memory();
        let (position, value) = match part.element {
            SlotType::F32 => {
                let written = memory.floats(part.bytes().start, part.elements.len())?;
                match first_not_finite(written) {
                    None => return Ok(()),
                    Some(position) => (position, f64::from(written[position])),
                }
            }
            SlotType::U8 | SlotType::U32 | SlotType::U64 => return Ok(()),
            SlotType::F64 | SlotType::Bf16 => {
                let written = memory.bytes(part.bytes())?;
                match part.element.first_not_finite(written) {
                    None => return Ok(()),
                    Some(found) => found,
                }
            }
        };
        let what = match part.slot {
            None => "parameter".into(),
            Some(slot) => format!("slot {}, element", self.slice.plan.slots[slot].name),
        };
        Err(StepError::NotFinite { what, index: (part.elements.start + position) as u64, value })
    }
}

/// The parts of a block that no other block has anything of. Of slots with an element for each run of parameters, the
/// runs of the block.
fn parts_of_block(slice: &BoundSlice, block: Range<usize>) -> impl Iterator<Item = StatePart> {
    let apart = slice.parts().filter(|part| part.rows_apart == RowsApart::Elements);
    apart.map(move |part| {
        let elements = block.start / part.parameters_each..block.end.div_ceil(part.parameters_each);
        part.only(elements)
    })
}

/// The slots that are not cut into blocks. They are small, and may be written at any time. Where rows are told apart, those
/// of rows go with their row.
fn shared_slots(slice: &BoundSlice) -> impl Iterator<Item = StatePart> {
    slice.parts().filter(|part| part.unit.is_none())
}

/// What of an accumulator concerns a slice with these rows.
fn here<'a>(values: &'a [f64], scope: Scope, rows: &Range<u64>) -> &'a [f64] {
    match scope {
        Scope::Row => &values[rows.start as usize..rows.end as usize],
        _ => values,
    }
}

fn here_mut<'a>(values: &'a mut [f64], scope: Scope, rows: &Range<u64>) -> &'a mut [f64] {
    match scope {
        Scope::Row => &mut values[rows.start as usize..rows.end as usize],
        _ => values,
    }
}
