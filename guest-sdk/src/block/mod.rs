//! What one call of `step` visits, and the loops over it.

mod cut;
mod parts;

pub(crate) use cut::{SliceViews, Visit};

use crate::accumulator::Accumulator;
use crate::plan::Granularity;
use crate::slots::Slots;
use crate::{ElementType, Extent, Random, Slot, State, Tensor, cast};

/// A run of consecutive parameters of one tensor, or a list of its rows, with everything that belongs to them.
///
/// The methods own the loops over elements, unrolled and with SIMD, and make contributions chunk by chunk, so that no
/// result depends on how the server cuts a tensor. An optimizer whose step is no loop over elements reads and writes the
/// fields.
#[derive(Debug)]
pub struct Block<'a> {
    /// The parameters. With touched rows, those of the whole slice.
    pub parameters: &'a mut [f32],
    /// The gradient, one for each parameter visited. With touched rows, that of the listed rows, without gaps. Means
    /// nothing in a phase that [`Plan::without_gradient`](crate::Plan::without_gradient) names.
    pub gradient: &'a [f32],
    /// In the phase of [`Plan::evaluation`](crate::Plan::evaluation), where evaluation weights go; otherwise empty.
    pub evaluation: &'a mut [f32],
    /// The slots: of those per element, per run and per row what belongs to the block (with touched rows, to the slice),
    /// all of the others.
    pub slots: Slots<'a>,
    tensor: &'a Tensor,
    phase: usize,
    /// Number in the tensor of the views' first element.
    start: u64,
    contributions: Vec<&'a mut [f64]>,
    rows: Option<&'a [u32]>,
}

impl<'a> Block<'a> {
    /// The tensor.
    pub fn tensor(&self) -> &'a Tensor {
        self.tensor
    }

    /// Number, counted from the tensor's start, of the first of [`parameters`](Self::parameters).
    pub fn start(&self) -> u64 {
        self.start
    }

    /// With touched rows, the rows to visit, counted from the first of [`parameters`](Self::parameters).
    pub fn row_ids(&self) -> Option<&'a [u32]> {
        self.rows
    }

    /// New parameters and state from old ones: `body` gets a parameter, its gradient and its state, and returns the new
    /// parameter and state. With touched rows, for the elements of these rows.
    ///
    /// Every listed slot is an `f32` to `body`. One that is per run, per row, per column or scalar shows the value that
    /// belongs to the element; what `body` returns for it is dropped.
    ///
    /// # Errors
    /// A slot is not in the plan, listed twice, or holds something that is not one number an element.
    #[inline]
    pub fn update<const N: usize>(
        &mut self,
        slots: [Slot; N],
        body: impl Fn(f32, f32, [f32; N]) -> (f32, [f32; N]),
    ) -> Result<(), String> {
        self.parts(slots, |part| {
            <[f32; N] as State>::visit(part.parameters, part.gradient, &mut part.slots, &body);
        })
    }

    /// As [`update`](Self::update); `body` also returns a number for each listed accumulator. The SDK squares it, or takes
    /// its absolute value, where that is what is combined.
    ///
    /// Contribute to an accumulator once in a step: a second call writes over the first's numbers or, by row and column,
    /// adds to them.
    ///
    /// # Errors
    /// As for [`update`](Self::update), or an accumulator is listed twice or not one that the optimizer contributes to in
    /// this phase.
    #[inline]
    pub fn update_contributing<const N: usize, const A: usize>(
        &mut self,
        slots: [Slot; N],
        accumulators: [Accumulator; A],
        body: impl Fn(f32, f32, [f32; N]) -> (f32, [f32; N], [f32; A]),
    ) -> Result<(), String> {
        self.visit_contributing(slots, accumulators, true, body)
    }

    /// Gives accumulators a number for each element and changes nothing.
    ///
    /// # Errors
    /// As for [`update_contributing`](Self::update_contributing).
    #[inline]
    pub fn contribute<const N: usize, const A: usize>(
        &mut self,
        slots: [Slot; N],
        accumulators: [Accumulator; A],
        body: impl Fn(f32, f32, [f32; N]) -> [f32; A],
    ) -> Result<(), String> {
        self.visit_contributing(slots, accumulators, false, |parameter, gradient, state| {
            (parameter, state, body(parameter, gradient, state))
        })
    }

    /// Gives an accumulator of a tensor, a group or the model one number for the whole tensor, which must be visited
    /// whole. Where squares are summed, the number is taken for their sum.
    ///
    /// # Errors
    /// The tensor is not visited whole, or the accumulator is not one that the optimizer contributes to in this phase.
    pub fn contribute_number(&mut self, accumulator: Accumulator, number: f64) -> Result<(), String> {
        if self.slots.plan.granularity != Granularity::Tensor {
            return Err(format!("accumulator {} takes numbers of elements, not of blocks", accumulator.name));
        }
        let position = parts::contributed(self.slots.plan, &accumulator, self.phase)?;
        let nothing = self.slots.plan.accumulators[position].combination.nothing();
        self.contributions[position].fill(nothing);
        match self.contributions[position].first_mut() {
            Some(first) => *first = number,
            None => return Err("an empty tensor contributes nothing".into()),
        }
        Ok(())
    }

    /// As [`update`](Self::update); `body` gets a random number for each element as well, normally distributed with mean 0
    /// and variance 1.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn update_with_normal<const N: usize>(
        &mut self,
        random: &Random,
        slots: [Slot; N],
        body: impl Fn(f32, f32, [f32; N], f32) -> (f32, [f32; N]),
    ) -> Result<(), String> {
        let mut numbers = Vec::new();
        self.chunks(slots, true, |part, _| {
            numbers.resize(part.parameters.len(), 0.0);
            random.fill_normal(part.part.first, &mut numbers);
            for (index, number) in numbers.iter().enumerate() {
                let state = part.slots.each_ref().map(|run| run[index]);
                let (parameter, state) = body(part.parameters[index], part.gradient[index], state, *number);
                part.parameters[index] = parameter;
                for (run, value) in part.slots.iter_mut().zip(state) {
                    run[index] = value;
                }
            }
        })
    }

    /// Evaluation weights from parameters and state, in the phase of [`Plan::evaluation`](crate::Plan::evaluation).
    ///
    /// # Errors
    /// As for [`update`](Self::update), or this is not that phase.
    #[inline]
    pub fn evaluate<const N: usize>(
        &mut self,
        slots: [Slot; N],
        body: impl Fn(f32, [f32; N]) -> f32,
    ) -> Result<(), String> {
        if self.slots.plan.evaluation_phase() != Some(self.phase) {
            return Err(format!("phase {} is not that of evaluation weights", self.phase));
        }
        self.visit_parts(slots, false, false, |part, _| {
            let weights = part.evaluation.iter_mut().zip(part.parameters.iter());
            for (index, (weight, parameter)) in weights.enumerate() {
                *weight = body(*parameter, part.slots.each_ref().map(|run| run[index]));
            }
        })
    }

    /// Visits the block chunk by chunk (with touched rows: row by row), for steps that are no function of single elements.
    /// Slots are there as in [`update`](Self::update), as runs. A chunk starts at a multiple of 4096, counted from the
    /// tensor's start, and has 4096 elements but at the tensor's end.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn for_each_chunk<const N: usize>(
        &mut self,
        slots: [Slot; N],
        mut visit: impl FnMut(Chunk<'_, N>),
    ) -> Result<(), String> {
        self.chunks(slots, true, |part, _| {
            let slots = part.slots.each_mut().map(|run| &mut **run);
            visit(Chunk { start: part.part.first, parameters: part.parameters, gradient: part.gradient, slots });
        })
    }

    /// Visits rows: with touched rows those that are listed, of a tensor that is visited whole all. A slot is there as the
    /// row's run of elements or, where it is per row, as its one element.
    ///
    /// # Errors
    /// The block may be cut within rows, the phase is that of evaluation weights, or a slot is neither an `f32` per element nor one per row.
    pub fn for_each_row<const N: usize>(
        &mut self,
        slots: [Slot; N],
        mut visit: impl FnMut(Row<'_, N>),
    ) -> Result<(), String> {
        self.needs_gradient()?;
        let plan = self.slots.plan;
        if plan.granularity == Granularity::Elements {
            return Err("blocks of this plan may start within a row".into());
        }
        let (columns, first_row) = (self.tensor.columns() as usize, self.first_row());
        let mut views: Vec<_> = self.slots.views.iter_mut().map(|view| Some(&mut **view)).collect();
        let mut runs = Vec::with_capacity(N);
        for slot in &slots {
            let (position, planned) = plan.find(slot)?;
            let elements = match (planned.extent, planned.element) {
                (Extent::PerElement, ElementType::F32) => columns,
                (Extent::PerRow, ElementType::F32) => 1,
                _ => return Err(format!("slot {} is neither an f32 per element nor one per row", slot.name)),
            };
            let view = views[position].take().ok_or_else(|| format!("slot {} is named twice", slot.name))?;
            runs.push((cast::elements_mut::<f32>(view), elements));
        }
        let mut runs: [_; N] = runs.try_into().map_err(|_| "slots were lost")?;
        let all: Vec<u32>;
        let rows = match self.rows {
            Some(rows) => rows,
            None => {
                all = (0..(self.parameters.len() / columns.max(1)) as u32).collect();
                &all
            }
        };
        for (index, row) in rows.iter().enumerate() {
            let row = *row as usize;
            visit(Row {
                index: first_row + row as u64,
                parameters: &mut self.parameters[row * columns..][..columns],
                gradient: &self.gradient[index * columns..][..columns],
                slots: runs.each_mut().map(|(run, elements)| &mut run[row * *elements..][..*elements]),
            });
        }
        Ok(())
    }

    /// [`update`](Self::update) for the first slots of the plan, for optimizers that were written for single elements.
    #[inline(always)]
    pub(crate) fn update_first<const N: usize>(
        &mut self,
        body: impl Fn(f32, f32, [f32; N]) -> (f32, [f32; N]),
    ) -> Result<(), String> {
        let slots: [Slot; N] = match self.slots.plan.slots.get(..N).and_then(|slots| slots.try_into().ok()) {
            Some(slots) => slots,
            None => return Err("the plan has fewer slots than the optimizer".into()),
        };
        self.update(slots, body)
    }
}

/// Consecutive elements of a block.
#[derive(Debug)]
pub struct Chunk<'b, const N: usize> {
    /// Number of the first, counted from the tensor's start.
    pub start: u64,
    /// The parameters.
    pub parameters: &'b mut [f32],
    /// Their gradient.
    pub gradient: &'b [f32],
    /// The listed slots, each as long as the parameters.
    pub slots: [&'b mut [f32]; N],
}

/// A row of a tensor.
#[derive(Debug)]
pub struct Row<'b, const N: usize> {
    /// Its number in the tensor.
    pub index: u64,
    /// Its parameters.
    pub parameters: &'b mut [f32],
    /// Their gradient.
    pub gradient: &'b [f32],
    /// The listed slots: as long as the parameters, or of one element where they are per row.
    pub slots: [&'b mut [f32]; N],
}
