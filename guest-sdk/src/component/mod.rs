//! The component's side of the contract: turns the server's calls into calls of an [`Optimizer`].
//!
//! Compiled for WebAssembly only. [`register!`](crate::register) implements the exports with it.

mod conversion;

use crate::accumulator::Contributor;
use crate::block::{Block, SliceViews, Visit};
use crate::memory::{ALIGNMENT, Memory, Place};
use crate::optimizer::learning_rates;
use crate::plan::{Plan, combined_range, contribution_range, slot_range};
use crate::slots::{Combined, Shared, Slots, Stage};
use crate::{Optimizer, Tensor, Value, cast};

/// Bindings generated from `wit/v0.1`.
#[allow(missing_docs, unsafe_code, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "optimizer-component",
        pub_export_macro: true,
        export_macro_name: "export_component",
        default_bindings_module: "stepbox_guest::component::bindings",
    });
}

use bindings::stepbox::optimizer::types;

/// The state of an instance of optimizer `O`: the memory reserved for the server, and the bound slices.
pub struct Instance<O: Optimizer> {
    memory: Memory,
    slices: Vec<Slice<O>>,
}

struct Slice<O: Optimizer> {
    optimizer: O,
    tensor: Tensor,
    plan: Plan,
    start: u64,
    elements: u64,
    /// The memory of parameters, stored slots, contributions and combined values, in this order.
    places: Vec<Place>,
    /// The phase that began last, and what `begin` computed for it.
    round: Option<(usize, O::Round)>,
}

impl<O: Optimizer> Default for Instance<O> {
    fn default() -> Self {
        Self { memory: Memory::default(), slices: Vec::new() }
    }
}

impl<O: Optimizer> Instance<O> {
    /// Implements the contract's `describe`.
    pub fn describe() -> types::Description {
        types::Description {
            name: O::NAME.into(),
            documentation: O::DOCUMENTATION.trim().into(),
            learning_rate: learning_rates::<O>().into(),
            hyperparameters: O::schema()
                .into_iter()
                .map(|entry| types::Hyperparameter {
                    name: entry.name.into(),
                    documentation: entry.documentation.trim().into(),
                    domain: entry.domain.into(),
                    per_group: entry.per_group,
                })
                .collect(),
            needs_loss: O::NEEDS_LOSS,
            largest_whole_tensor: O::LARGEST_WHOLE_TENSOR,
        }
    }

    /// Implements the contract's `plan`.
    pub fn plan(hyperparameters: &[types::Value], tensor: types::Tensor) -> Result<types::TensorPlan, String> {
        let tensor = Tensor::from(tensor);
        let plan = optimizer::<O>(hyperparameters)?.plan(&tensor)?;
        plan.check(&tensor)?;
        Ok(plan.into())
    }

    /// Implements the contract's `reserve`.
    pub fn reserve(&mut self, bytes: u32) -> Result<u32, String> {
        self.memory.reserve(bytes)
    }

    /// Implements the contract's `bind`.
    pub fn bind(&mut self, slice: types::Slice, hyperparameters: &[types::Value]) -> Result<u32, String> {
        let optimizer = optimizer::<O>(hyperparameters)?;
        let tensor = Tensor::from(slice.tensor);
        let plan = optimizer.plan(&tensor)?;
        plan.check(&tensor)?;
        let elements = u64::from(slice.parameters.elements);
        let run = slice.start..slice.start + elements;
        if tensor.rows_of(run.clone()).start != slice.first_row {
            return Err(format!("the slice at element {} does not start in row {}", slice.start, slice.first_row));
        }

        let mut places = vec![self.place(&slice.parameters, elements, size_of::<f32>(), "the parameters")?];
        let stored: Vec<_> = plan.stored_slots().collect();
        count("slots", slice.slots.len(), stored.len())?;
        for (slot, view) in stored.iter().zip(&slice.slots) {
            let range = slot_range(slot.extent, &tensor, run.clone());
            places.push(self.place(view, range.end - range.start, slot.element.bytes(), &slot.name)?);
        }
        count("contributions", slice.contributions.len(), plan.accumulators.len())?;
        for (accumulator, view) in plan.accumulators.iter().zip(&slice.contributions) {
            places.push(if accumulator.contributor == Contributor::Optimizer {
                let range = contribution_range(accumulator.scope, &tensor, run.clone());
                self.place(view, range.end - range.start, size_of::<f64>(), accumulator.name)?
            } else {
                Place::EMPTY
            });
        }
        count("combined accumulators", slice.combined.len(), plan.accumulators.len())?;
        for (accumulator, view) in plan.accumulators.iter().zip(&slice.combined) {
            let range = combined_range(accumulator.scope, &tensor, run.clone());
            places.push(self.place(view, range.end - range.start, size_of::<f64>(), accumulator.name)?);
        }
        self.slices.push(Slice { optimizer, tensor, plan, start: slice.start, elements, places, round: None });
        Ok(self.slices.len() as u32 - 1)
    }

    /// Implements the contract's `begin`.
    pub fn begin(&mut self, slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        let slice = self.slices.get_mut(slice as usize).ok_or("no such slice")?;
        slice.round = None;
        let phase = phase as usize;
        let mut views = self.memory.views(&slice.places)?.into_iter();
        views.next();
        let slots = views.by_ref().take(slice.plan.stored_slots().count()).collect();
        let combined = views.skip(slice.plan.accumulators.len()).map(|view| cast::elements(&*view)).collect();
        let mut shared = Shared {
            combined: Combined { plan: &slice.plan, phase, views: combined },
            slots: Slots { plan: &slice.plan, stage: Stage::Begin, views: slots },
            rows: slice.tensor.rows_of(slice.start..slice.start + slice.elements),
        };
        let round = slice.optimizer.begin(phase, &slice.tensor, &context.into(), &mut shared)?;
        slice.round = Some((phase, round));
        Ok(())
    }

    /// Implements the contract's `step`.
    pub fn step(&mut self, slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        let slice = self.slices.get(slice as usize).ok_or("no such slice")?;
        let phase = phase as usize;
        let round = match &slice.round {
            Some((begun, round)) if *begun == phase => round,
            _ => return Err(format!("step of phase {phase} before its begin")),
        };
        let (start, elements) = (block.start as usize, block.elements as usize);
        let end = start.checked_add(elements).ok_or("the block leaves the slice")?;
        let gradient = self.memory.place(block.gradient, elements, size_of::<f32>(), ALIGNMENT)?;
        let rows = match block.rows {
            None => None,
            Some(offset) => {
                let rows = elements / (slice.tensor.columns() as usize).max(1);
                Some(self.memory.place(offset, rows, size_of::<u32>(), size_of::<u32>())?)
            }
        };
        let scratch = [gradient, rows.clone().unwrap_or(Place::EMPTY)];
        let (views, mut scratch) = self.memory.views_and_scratch(&slice.places, &scratch)?;
        let mut views = views.into_iter();
        let parameters = cast::elements_mut(views.next().unwrap_or_default());
        let slots = views.by_ref().take(slice.plan.stored_slots().count()).collect();
        let contributions = views.take(slice.plan.accumulators.len()).map(cast::elements_mut).collect();
        let Scratch { gradient, evaluation, rows } =
            Scratch::of(&mut scratch, slice.plan.evaluation_phase() == Some(phase), rows.is_some());
        let slice_views = SliceViews {
            tensor: &slice.tensor,
            plan: &slice.plan,
            start: slice.start,
            parameters,
            slots,
            contributions,
        };
        let visit = Visit { elements: start..end, gradient, evaluation, rows };
        slice.optimizer.step(round, phase, &mut Block::cut(slice_views, phase, visit)?)
    }

    fn place(&self, view: &types::View, elements: u64, size: usize, of: &str) -> Result<Place, String> {
        if u64::from(view.elements) != elements {
            return Err(format!("the view of {of} has {} elements and not {elements}", view.elements));
        }
        self.memory.place(view.offset, elements as usize, size, ALIGNMENT)
    }
}

/// The contents of a call's scratch memory.
struct Scratch<'a> {
    gradient: &'a [f32],
    evaluation: &'a mut [f32],
    rows: Option<&'a [u32]>,
}

impl<'a> Scratch<'a> {
    /// `scratch` holds the gradient, or the evaluation weights in its place, and then the list of rows.
    fn of(scratch: &'a mut [&mut [u8]], evaluates: bool, lists_rows: bool) -> Self {
        let (numbers, rows) = match scratch {
            [numbers, rows] => (cast::elements_mut(numbers), cast::elements(rows)),
            _ => (Default::default(), Default::default()),
        };
        let rows = lists_rows.then_some(rows);
        if evaluates {
            Self { gradient: &[], evaluation: numbers, rows }
        } else {
            Self { gradient: numbers, evaluation: &mut [], rows }
        }
    }
}

fn count(of: &str, found: usize, planned: usize) -> Result<(), String> {
    if found == planned { Ok(()) } else { Err(format!("{found} {of} bound where the plan has {planned}")) }
}

fn optimizer<O: Optimizer>(hyperparameters: &[types::Value]) -> Result<O, String> {
    let values: Vec<_> = hyperparameters.iter().map(Value::from).collect();
    O::from_values(&values)
}
