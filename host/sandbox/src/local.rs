//! Training in one thread, without a server: what trials at admission, tests and benches run on.
//!
//! It is also the shortest complete reading of how a round goes: statistics, phases, and accumulators combined in
//! between. A server does the same with each tensor's slices on several threads.

use std::ops::Range;
use std::sync::Arc;

use crate::contract::accumulators::{Accumulators, Contributions};
use crate::contract::context::StepContext;
use crate::contract::declarations::{Granularity, Scope};
use crate::contract::plan::Plan;
use crate::contract::settings::Settings;
use crate::contract::tensor::TensorDescription;
use crate::error::{SandboxError, StepError};
use crate::instance::component::AdmittedComponent;
use crate::pool::InstancePool;
use crate::slice::SliceId;

/// A tensor to be trained.
#[derive(Debug, Clone)]
pub struct LocalTensor {
    /// As the optimizer is told of it.
    pub description: TensorDescription,
    /// Its hyperparameters.
    pub settings: Settings,
    /// Its first parameters, as many as its shape says.
    pub parameters: Vec<f32>,
}

/// Tensors that train together in one pool of instances.
pub struct LocalTraining {
    pool: InstancePool,
    tensors: Vec<BoundTensor>,
}

struct BoundTensor {
    description: TensorDescription,
    plan: Arc<Plan>,
    slices: Vec<LocalSlice>,
}

#[derive(Clone)]
struct LocalSlice {
    id: SliceId,
    elements: Range<usize>,
}

impl LocalTraining {
    /// Plans, cuts and binds the tensors. Slices have about `slice_elements` elements at most, where a tensor may be
    /// cut.
    ///
    /// # Errors
    /// The optimizer refuses a tensor, or misbehaves.
    ///
    /// # Panics
    /// If a tensor has no elements, or another number of parameters than its shape says.
    pub fn new(
        component: &AdmittedComponent,
        tensors: Vec<LocalTensor>,
        slice_elements: u64,
    ) -> Result<Self, SandboxError> {
        let mut pool = component.pool();
        let mut bound = Vec::with_capacity(tensors.len());
        for LocalTensor { description, settings, parameters } in tensors {
            let plan = Arc::new(component.plan(&settings, &description)?);
            assert_eq!(plan.geometry.elements(), parameters.len() as u64, "as many parameters as the shape says");
            let length = match plan.slice_unit() {
                Some(unit) => (slice_elements / unit * unit).max(unit) as usize,
                None => parameters.len(),
            };
            let mut slices = Vec::new();
            for start in (0..parameters.len()).step_by(length) {
                let elements = start..parameters.len().min(start + length);
                let id = pool.bind(&description, &plan, &settings, start as u64, elements.len() as u32)?;
                let bytes: Vec<u8> =
                    parameters[elements.clone()].iter().flat_map(|value| value.to_le_bytes()).collect();
                pool.load(id, &bytes)?;
                slices.push(LocalSlice { id, elements });
            }
            bound.push(BoundTensor { description, plan, slices });
        }
        Ok(Self { pool, tensors: bound })
    }

    /// A round of all tensors, with a gradient for each in their order.
    ///
    /// # Errors
    /// The optimizer failed. All tensors are what they were before.
    ///
    /// # Panics
    /// If there are not as many gradients as tensors, or one has another length than its tensor.
    pub fn round(&mut self, context: &StepContext, gradients: &[&[f32]]) -> Result<(), StepError> {
        assert_eq!(gradients.len(), self.tensors.len(), "a gradient for each tensor");
        self.round_among(0..gradients.len(), context, gradients)
    }

    /// A round of one of the tensors: the others live where they live, and take no part.
    ///
    /// # Errors
    /// The optimizer failed. The tensor is what it was before.
    ///
    /// # Panics
    /// If the gradient has another length than the tensor.
    pub fn round_of(&mut self, tensor: usize, context: &StepContext, gradient: &[f32]) -> Result<(), StepError> {
        self.round_among(tensor..tensor + 1, context, &[gradient])
    }

    fn round_among(
        &mut self,
        tensors: Range<usize>,
        context: &StepContext,
        gradients: &[&[f32]],
    ) -> Result<(), StepError> {
        let Self { pool, tensors: all } = self;
        let tensors = &all[tensors];
        let outcome = Self::run_round(pool, tensors, context, gradients);
        for slice in tensors.iter().flat_map(|tensor| &tensor.slices) {
            match outcome {
                Ok(()) => pool.commit(slice.id),
                Err(_) => pool.roll_back(slice.id),
            };
        }
        outcome
    }

    fn run_round(
        pool: &mut InstancePool,
        tensors: &[BoundTensor],
        context: &StepContext,
        gradients: &[&[f32]],
    ) -> Result<(), StepError> {
        let mut accumulators: Vec<_> =
            tensors.iter().map(|tensor| Accumulators::new(Arc::clone(&tensor.plan))).collect();
        let phases = tensors.iter().map(|tensor| tensor.plan.phases.len()).max().unwrap_or(0) as u32;
        for phase in 0..phases {
            for ((tensor, accumulators), gradient) in tensors.iter().zip(&mut accumulators).zip(gradients) {
                if tensor.plan.gathers_before(phase) {
                    let gathered =
                        tensor.each(|slice, from| pool.statistics(slice, phase, &mut source(gradient, from)))?;
                    accumulators.add(gathered);
                }
            }
            combine_shared(tensors, &mut accumulators, phase);
            for ((tensor, accumulators), gradient) in tensors.iter().zip(&mut accumulators).zip(gradients) {
                if phase as usize >= tensor.plan.phases.len() {
                    continue;
                }
                let contributed = match tensor.plan.granularity {
                    Granularity::TouchedRows => tensor.each(|slice, from| {
                        let columns = tensor.plan.geometry.columns.max(1) as usize;
                        let rows: Vec<u32> = (0..(from.len() / columns) as u32).collect();
                        pool.step_rows(slice, &rows, context, &mut source(gradient, from))?;
                        Ok(Contributions::default())
                    })?,
                    Granularity::Elements | Granularity::Tensor => tensor.each(|slice, from| {
                        pool.phase(slice, phase, context, accumulators, &mut source(gradient, from))
                    })?,
                };
                accumulators.add(contributed);
            }
        }
        Ok(())
    }

    /// A round of one tensor that touches these rows only, which are in ascending order without repetition; `values`
    /// holds their gradients one after the other.
    ///
    /// # Errors
    /// The optimizer failed. The tensor is what it was before.
    ///
    /// # Panics
    /// If the tensor's plan is not one of touched rows.
    pub fn round_rows(
        &mut self,
        tensor: usize,
        context: &StepContext,
        rows: &[u64],
        values: &[f32],
    ) -> Result<(), StepError> {
        let Self { pool, tensors } = self;
        let tensor = &tensors[tensor];
        assert_eq!(tensor.plan.granularity, Granularity::TouchedRows, "a plan of touched rows");
        let columns = tensor.plan.geometry.columns as usize;
        let outcome = tensor.each(|slice, elements| {
            let held = (elements.start / columns) as u64..(elements.end / columns) as u64;
            let first = rows.partition_point(|row| *row < held.start);
            let here = &rows[first..rows.partition_point(|row| *row < held.end)];
            let here: Vec<u32> = here.iter().map(|row| (row - held.start) as u32).collect();
            let from = first * columns..(first + here.len()) * columns;
            pool.step_rows(slice, &here, context, &mut source(values, from)).map(|()| Contributions::default())
        });
        for slice in &tensor.slices {
            match outcome {
                Ok(_) => pool.commit(slice.id),
                Err(_) => pool.roll_back(slice.id),
            };
        }
        outcome.map(|_| ())
    }

    /// A tensor's parameters.
    ///
    /// # Errors
    /// The memory is not there: the optimizer misbehaved.
    pub fn parameters(&self, tensor: usize) -> Result<Vec<f32>, SandboxError> {
        let tensor = &self.tensors[tensor];
        let mut values = Vec::new();
        for slice in &tensor.slices {
            let mut bytes = vec![0; slice.elements.len() * size_of::<f32>()];
            self.pool.read_parameters(slice.id, &mut bytes)?;
            values.extend(floats(&bytes));
        }
        Ok(values)
    }

    /// The weights to evaluate a tensor with; its parameters where the optimizer makes no difference.
    ///
    /// # Errors
    /// The optimizer failed.
    pub fn evaluation(&mut self, tensor: usize, context: &StepContext) -> Result<Vec<f32>, StepError> {
        if self.tensors[tensor].plan.evaluation.is_none() {
            return self.parameters(tensor).map_err(StepError::not_revived);
        }
        let mut values = Vec::new();
        for slice in &self.tensors[tensor].slices {
            let mut bytes = vec![0; slice.elements.len() * size_of::<f32>()];
            self.pool.evaluate(slice.id, context, &mut bytes)?;
            values.extend(floats(&bytes));
        }
        Ok(values)
    }

    /// A slot's bytes in each slice of a tensor. `None` where the plan has no slot of that name.
    ///
    /// # Errors
    /// They were changed outside the tensor's steps: the optimizer misbehaved.
    pub fn slot(&self, tensor: usize, name: &str) -> Result<Option<Vec<&[u8]>>, SandboxError> {
        self.tensors[tensor].slices.iter().map(|slice| self.pool.read_slot(slice.id, name)).collect()
    }

    /// A tensor's plan.
    pub fn plan(&self, tensor: usize) -> &Plan {
        &self.tensors[tensor].plan
    }

    /// The pool that the tensors live in.
    pub fn pool(&self) -> &InstancePool {
        &self.pool
    }

    pub(crate) fn take_most_fuel(&mut self) -> u64 {
        self.pool.take_most_fuel()
    }
}

impl BoundTensor {
    /// Does something to each slice, in their order.
    fn each(
        &self,
        mut act: impl FnMut(SliceId, Range<usize>) -> Result<Contributions, StepError>,
    ) -> Result<Vec<Contributions>, StepError> {
        self.slices.iter().map(|slice| act(slice.id, slice.elements.clone())).collect()
    }
}

/// Combines over tensors what `phase` is the first to read: over each group, or over all.
fn combine_shared(tensors: &[BoundTensor], accumulators: &mut [Accumulators], phase: u32) {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|index| tensors[*index].description.identity);
    let shared: Vec<Vec<(String, f64)>> = tensors
        .iter()
        .zip(&*accumulators)
        .map(|(tensor, accumulators)| {
            let named = |(index, value): (usize, f64)| (tensor.plan.accumulators[index].name.clone(), value);
            accumulators.shared(phase).map(named).collect()
        })
        .collect();
    for (tensor, accumulators) in tensors.iter().zip(accumulators) {
        for (index, _) in accumulators.shared(phase).collect::<Vec<_>>() {
            let accumulator = &tensor.plan.accumulators[index];
            let together = |other: &usize| {
                accumulator.scope == Scope::Model || tensors[*other].description.group == tensor.description.group
            };
            let values = order.iter().filter(|other| together(other)).filter_map(|other| {
                shared[*other].iter().find(|(name, _)| *name == accumulator.name).map(|(_, value)| *value)
            });
            accumulators.set_shared(index, values);
        }
    }
}

/// A gradient as slices ask for it.
fn source(gradient: &[f32], from: Range<usize>) -> impl FnMut(Range<usize>, &mut [f32]) {
    move |range, target| target.copy_from_slice(&gradient[from.clone()][range])
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}
