//! The loops over a block's chunks or rows, with the listed slots as runs of `f32`.

use super::Block;
use crate::accumulator::{Accumulator, Combination, Scope};
use crate::operand::{Operand, Part, Segments};
use crate::plan::Plan;
use crate::slots::Slots;
use crate::statistics::{self, CHUNK_ELEMENTS};
use crate::{Slot, contributing};

/// Consecutive elements of a block, with the listed slots.
pub(super) struct PartViews<'b, const N: usize> {
    pub(super) part: Part,
    pub(super) parameters: &'b mut [f32],
    pub(super) gradient: &'b [f32],
    pub(super) evaluation: &'b mut [f32],
    pub(super) slots: [&'b mut [f32]; N],
}

impl Block<'_> {
    #[inline]
    pub(super) fn visit_contributing<const N: usize, const A: usize>(
        &mut self,
        slots: [Slot; N],
        accumulators: [Accumulator; A],
        writes: bool,
        body: impl Fn(f32, f32, [f32; N]) -> (f32, [f32; N], [f32; A]),
    ) -> Result<(), String> {
        let (plan, phase, columns) = (self.slots.plan, self.phase, self.tensor.columns());
        let first_row = self.first_row();
        let mut positions = [0; A];
        for (index, accumulator) in accumulators.iter().enumerate() {
            let position = contributed(plan, accumulator, phase)?;
            if positions[..index].contains(&position) {
                return Err(format!("accumulator {} is named twice", accumulator.name));
            }
            positions[index] = position;
        }
        let mut numbers = vec![[0.0_f32; CHUNK_ELEMENTS]; A];
        let mut chunk = 0;
        self.chunks(slots, writes, |part, contributions| {
            let elements = part.parameters.len();
            let mut next = numbers.iter_mut();
            let mut runs: [&mut [f32]; A] =
                std::array::from_fn(|_| next.next().map_or(&mut [] as &mut [f32], |run| &mut run[..elements]));
            contributing::visit(part.parameters, part.gradient, &mut part.slots, &mut runs, &body);
            for (position, numbers) in positions.iter().zip(&numbers) {
                let Accumulator { scope, combination, .. } = plan.accumulators[*position];
                let numbers = &numbers[..elements];
                match scope {
                    Scope::Tensor | Scope::Group | Scope::Model => {
                        contributions[*position][chunk] = statistics::partial(combination, numbers);
                    }
                    Scope::Row | Scope::Column => {
                        add_lines(
                            scope,
                            combination,
                            contributions[*position],
                            numbers,
                            &part.part,
                            columns,
                            first_row,
                        );
                    }
                }
            }
            chunk += 1;
        })
    }

    /// Visits the block in chunks (with touched rows: in rows), so that sums do not depend on where the block ends.
    #[inline]
    pub(super) fn chunks<const N: usize>(
        &mut self,
        slots: [Slot; N],
        writes: bool,
        visit: impl FnMut(&mut PartViews<'_, N>, &mut [&mut [f64]]),
    ) -> Result<(), String> {
        self.needs_gradient()?;
        self.visit_parts(slots, writes, true, visit)
    }

    /// Visits the block in parts of any length.
    #[inline]
    pub(super) fn parts<const N: usize>(
        &mut self,
        slots: [Slot; N],
        mut visit: impl FnMut(&mut PartViews<'_, N>),
    ) -> Result<(), String> {
        self.needs_gradient()?;
        self.visit_parts(slots, true, false, |part, _| visit(part))
    }

    pub(super) fn needs_gradient(&self) -> Result<(), String> {
        if self.slots.plan.evaluation_phase() == Some(self.phase) {
            return Err("the phase of evaluation weights has no gradient".into());
        }
        Ok(())
    }

    #[inline]
    pub(super) fn visit_parts<const N: usize>(
        &mut self,
        slots: [Slot; N],
        writes: bool,
        in_chunks: bool,
        mut visit: impl FnMut(&mut PartViews<'_, N>, &mut [&mut [f64]]),
    ) -> Result<(), String> {
        let first_row = self.first_row();
        let Self { parameters, gradient, evaluation, slots: Slots { plan, views, .. }, .. } = self;
        let columns = self.tensor.columns() as usize;
        let mut operands = operands(plan, &slots, views, columns as u64, first_row)?;
        let elements = parameters.len();
        let in_chunks = in_chunks || !operands.iter().all(Operand::is_direct);
        let length = if in_chunks { CHUNK_ELEMENTS } else { elements.max(1) };
        let parts = self.rows.map_or(elements.div_ceil(length), <[u32]>::len);
        for index in 0..parts {
            let (place, of_gradient) = match self.rows {
                Some(rows) => {
                    let first = rows[index] as usize * columns;
                    (first..first + columns, index * columns..(index + 1) * columns)
                }
                None => {
                    let place = index * length..elements.min((index + 1) * length);
                    (place.clone(), place)
                }
            };
            let part = Part { first: self.start + place.start as u64, place };
            let mut views = PartViews {
                part: part.clone(),
                parameters: &mut parameters[part.place.clone()],
                // One of the two is empty: a phase that computes evaluation weights has no gradient.
                gradient: gradient.get(of_gradient).unwrap_or_default(),
                evaluation: evaluation.get_mut(part.place.clone()).unwrap_or_default(),
                slots: operands.each_mut().map(|operand| operand.open(&part)),
            };
            visit(&mut views, &mut self.contributions);
            if writes {
                operands.iter_mut().for_each(|operand| operand.close(&part));
            }
        }
        Ok(())
    }

    /// The row of the first element of the views.
    pub(super) fn first_row(&self) -> u64 {
        self.tensor.rows_of(self.start..self.start + self.parameters.len() as u64).start
    }
}

/// The listed slots, as operands of a loop.
fn operands<'b, const N: usize>(
    plan: &Plan,
    slots: &[Slot; N],
    views: &'b mut [&mut [u8]],
    columns: u64,
    first_row: u64,
) -> Result<[Operand<'b>; N], String> {
    let mut views: Vec<_> = views.iter_mut().map(|view| Some(&mut **view)).collect();
    let mut operands = Vec::with_capacity(N);
    for slot in slots {
        operands.push(Operand::new(plan, slot, &mut views, columns, first_row)?);
    }
    operands.try_into().map_err(|_| "slots were lost".to_string())
}

/// Position of an accumulator in the plan. An error unless the optimizer contributes to it in this phase.
pub(super) fn contributed(plan: &Plan, accumulator: &Accumulator, phase: usize) -> Result<usize, String> {
    let position = plan.find_accumulator(accumulator)?;
    if plan.accumulators[position].is_contributed_in(phase) {
        return Ok(position);
    }
    Err(format!("accumulator {} is not contributed in phase {phase}", accumulator.name))
}

/// Combines the numbers of a part into the values of the rows or columns that they belong to.
fn add_lines(
    scope: Scope,
    combination: Combination,
    lines: &mut [f64],
    numbers: &[f32],
    part: &Part,
    columns: u64,
    first_row: u64,
) {
    let mut rest = numbers;
    for segment in Segments::of(part, columns) {
        let (now, later) = rest.split_at(segment.elements);
        if scope == Scope::Row {
            let row = &mut lines[(segment.row - first_row) as usize];
            *row = combination.join(*row, statistics::partial(combination, now));
        } else {
            statistics::add_to_columns(combination, &mut lines[segment.first_column..], now);
        }
        rest = later;
    }
}
