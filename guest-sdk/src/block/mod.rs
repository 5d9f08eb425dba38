//! Blocks: what one call of `step` visits, and the loops over it.

mod cut;
mod parts;

pub(crate) use cut::{SliceViews, Visit};

use crate::accumulator::Accumulator;
use crate::plan::Granularity;
use crate::slots::Slots;
use crate::{ElementType, Extent, Random, Slot, State, Tensor, cast};

/// A run of consecutive parameters of one tensor, or a list of its rows, with everything that belongs to them.
///
/// The methods contain the loops over elements, unrolled and with SIMD. They make contributions chunk by chunk, so that
/// no result depends on how the server cuts a tensor. An optimizer whose step is not a loop over elements reads and
/// writes the fields directly.
#[derive(Debug)]
pub struct Block<'a> {
    /// The parameters. With touched rows, the parameters of the whole slice.
    pub parameters: &'a mut [f32],
    /// The gradient, one element for each parameter visited. With touched rows, the gradient of the listed rows,
    /// without gaps. Undefined in a phase declared with [`Plan::without_gradient`](crate::Plan::without_gradient).
    pub gradient: &'a [f32],
    /// The output for evaluation weights in the phase of [`Plan::evaluation`](crate::Plan::evaluation); empty in other
    /// phases.
    pub evaluation: &'a mut [f32],
    /// The slots. Per-element, per-run and per-row slots are restricted to the block (with touched rows, to the slice);
    /// all other slots are complete.
    pub slots: Slots<'a>,
    tensor: &'a Tensor,
    phase: usize,
    /// Index in the tensor of the first element of the views.
    start: u64,
    contributions: Vec<&'a mut [f64]>,
    rows: Option<&'a [u32]>,
}

impl<'a> Block<'a> {
    /// The tensor that the block belongs to.
    pub fn tensor(&self) -> &'a Tensor {
        self.tensor
    }

    /// The index of the first of [`parameters`](Self::parameters), counted from the start of the tensor.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// With touched rows, the rows to visit, counted from the row of the first of [`parameters`](Self::parameters).
    pub fn row_ids(&self) -> Option<&'a [u32]> {
        self.rows
    }

    /// Updates parameters and state: `body` receives a parameter, its gradient and its state, and returns the new
    /// parameter and state. With touched rows, it runs for the elements of the listed rows.
    ///
    /// `body` sees every listed slot as `f32`. For a per-run, per-row, per-column or scalar slot it sees the value that
    /// applies to the element, and the value that it returns for the slot is ignored.
    ///
    /// # Errors
    /// A slot is not in the plan, is listed twice, or does not hold one number for each element.
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

    /// As [`update`](Self::update), but `body` also returns a number for each listed accumulator. For sums of squares
    /// and largest absolute values, the SDK squares the number or takes its absolute value.
    ///
    /// Contribute to an accumulator once per step: a second call overwrites the contributions of the first or, for row
    /// and column accumulators, adds to them.
    ///
    /// # Errors
    /// As for [`update`](Self::update), or an accumulator is listed twice, or the optimizer does not contribute to it
    /// in this phase.
    #[inline]
    pub fn update_contributing<const N: usize, const A: usize>(
        &mut self,
        slots: [Slot; N],
        accumulators: [Accumulator; A],
        body: impl Fn(f32, f32, [f32; N]) -> (f32, [f32; N], [f32; A]),
    ) -> Result<(), String> {
        self.visit_contributing(slots, accumulators, true, body)
    }

    /// Contributes a number for each element to each listed accumulator, without changing parameters or slots.
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

    /// Contributes one number for the whole tensor to an accumulator of a tensor, a group or the model. The tensor must
    /// be visited whole. For a sum of squares, `number` is the sum of the squares.
    ///
    /// # Errors
    /// The tensor is not visited whole, or the optimizer does not contribute to the accumulator in this phase.
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

    /// As [`update`](Self::update), but `body` also receives a random number for each element, normally distributed
    /// with mean 0 and variance 1.
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

    /// Computes evaluation weights from parameters and state, in the phase of
    /// [`Plan::evaluation`](crate::Plan::evaluation).
    ///
    /// # Errors
    /// As for [`update`](Self::update), or the current phase is a different one.
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

    /// Visits the block chunk by chunk (with touched rows: row by row), for steps that are not functions of single
    /// elements. Slots appear as runs, converted as in [`update`](Self::update). A chunk starts at a multiple of 4096,
    /// counted from the start of the tensor, and has 4096 elements, except at the end of the tensor.
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

    /// Visits rows: with touched rows, the listed rows; for a tensor visited whole, all rows. A per-element slot
    /// appears as the row's run of elements, a per-row slot as its single element.
    ///
    /// # Errors
    /// The block may be cut within rows, the phase is the one of evaluation weights, or a slot is neither an `f32` per
    /// element nor one per row.
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

    /// As [`update`](Self::update) with the first `N` slots of the plan, for [`Elementwise`](crate::Elementwise)
    /// optimizers.
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

/// Consecutive elements of a block: a chunk, or a touched row.
#[derive(Debug)]
pub struct Chunk<'b, const N: usize> {
    /// Index of the first element, counted from the start of the tensor.
    pub start: u64,
    /// The parameters of the chunk.
    pub parameters: &'b mut [f32],
    /// The gradient, one element for each parameter.
    pub gradient: &'b [f32],
    /// The listed slots, each as long as `parameters`.
    pub slots: [&'b mut [f32]; N],
}

/// A row of a tensor.
#[derive(Debug)]
pub struct Row<'b, const N: usize> {
    /// Index of the row in the tensor.
    pub index: u64,
    /// The parameters of the row.
    pub parameters: &'b mut [f32],
    /// The gradient, one element for each parameter.
    pub gradient: &'b [f32],
    /// The listed slots: as long as `parameters`, or a single element for per-row slots.
    pub slots: [&'b mut [f32]; N],
}
