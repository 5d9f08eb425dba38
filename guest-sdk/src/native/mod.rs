//! Runs an optimizer natively: for tests, and as the baseline for measurements of sandboxed runs.

mod model;
mod pass;
mod state;

use std::borrow::Cow;

pub use model::NativeModel;

use crate::plan::{Granularity, Plan, combined_range};
use crate::{Context, Element, Optimizer, Tensor, cast};
use pass::{Cuts, Pass};
use state::State;

/// A tensor that is trained natively. It runs the same code as the component, and the results have the same bits.
///
/// ```
/// use stepbox_guest::prelude::*;
/// # hyperparameters! { /** Plain descent. */ pub struct Descent {} }
/// # impl Elementwise for Descent {
/// #     const NAME: &'static str = "descent";
/// #     const LEARNING_RATE: f64 = 0.1;
/// #     type State = [f32; 0];
/// #     type Round = f32;
/// #     fn slots(&self) -> [Slot; 0] { [] }
/// #     fn begin(&self, _: &Tensor, context: &Context) -> f32 { context.learning_rate }
/// #     fn update(rate: &f32, parameter: f32, gradient: f32, _: [f32; 0]) -> (f32, [f32; 0]) {
/// #         (parameter - rate * gradient, [])
/// #     }
/// # }
/// let mut training = Native::new(Descent::default(), vec![1.0, -1.0]);
/// training.round(0.5, &[1.0, 1.0]);
/// assert_eq!(training.parameters(), [0.5, -1.5]);
/// ```
#[derive(Debug, Clone)]
pub struct Native<O: Optimizer> {
    optimizer: O,
    tensor: Tensor,
    plan: Plan,
    state: State,
    /// The combined values of each accumulator of the plan.
    combined: Vec<Vec<f64>>,
    rounds: u64,
    last: Option<Context>,
    cuts: Cuts,
    /// Whether each phase is followed by a check that parameters and slots are finite.
    checked: bool,
}

/// A reduced gradient.
#[derive(Debug, Clone, Copy)]
pub enum Gradient<'a> {
    /// A dense gradient: one element for each parameter.
    Dense(&'a [f32]),
    /// The gradient of some rows of a tensor.
    Rows {
        /// The indexes of the rows, ascending and without duplicates.
        rows: &'a [u32],
        /// The elements of the rows, row by row.
        values: &'a [f32],
    },
}

impl<O: Optimizer> Native<O> {
    /// A vector of parameters before its first round.
    ///
    /// # Panics
    /// If the optimizer refuses the tensor.
    pub fn new(optimizer: O, parameters: Vec<f32>) -> Self {
        let shape = [parameters.len() as u64];
        Self::of_tensor(optimizer, Tensor::new("tensor", &shape, 0), parameters)
    }

    /// A tensor before its first round. `parameters` must have as many elements as the tensor's shape.
    ///
    /// # Panics
    /// If the optimizer refuses the tensor.
    pub fn of_tensor(optimizer: O, tensor: Tensor, parameters: Vec<f32>) -> Self {
        match Self::planned(optimizer, tensor, parameters) {
            Ok(native) => native,
            Err(reason) => panic!("the tensor is refused: {reason}"),
        }
    }

    /// As [`of_tensor`](Self::of_tensor), for optimizers that refuse some tensors.
    ///
    /// # Errors
    /// The optimizer refuses the tensor, its plan is inconsistent, or the number of parameters does not match the
    /// shape.
    pub fn planned(optimizer: O, tensor: Tensor, parameters: Vec<f32>) -> Result<Self, String> {
        if parameters.len() as u64 != tensor.elements() {
            return Err(format!("{} parameters for a tensor of {:?}", parameters.len(), tensor.shape));
        }
        let plan = optimizer.plan(&tensor)?;
        plan.check(&tensor)?;
        let state = State::new(&plan, &tensor, parameters);
        let mut native = Self {
            optimizer,
            tensor,
            plan,
            state,
            combined: Vec::new(),
            rounds: 0,
            last: None,
            cuts: Cuts::default(),
            checked: true,
        };
        native.forget_contributions();
        Ok(native)
    }

    /// Disables the check after each phase that parameters and slots are finite: for measurements that compare a
    /// server's round with the arithmetic alone.
    pub fn unchecked(mut self) -> Self {
        self.checked = false;
        self
    }

    /// Cuts the tensor into slices and blocks of these sizes in elements, as a server may, to check that results do not
    /// change. (Touched rows are cut at rows, and tensors that are visited whole are not cut.)
    ///
    /// # Panics
    /// If a size is 0 or not a multiple of 4096.
    pub fn cut(mut self, slice_elements: usize, block_elements: usize) -> Self {
        self.cuts = Cuts::new(slice_elements, block_elements);
        self
    }

    /// Runs one round with this learning rate. `gradient` must have one element for each parameter.
    ///
    /// # Panics
    /// If it does not, or if the round fails as for [`try_round`](Self::try_round).
    pub fn round(&mut self, learning_rate: f32, gradient: &[f32]) {
        self.round_in(&Context::of_round(self.rounds + 1, learning_rate), gradient);
    }

    /// Runs one round in this context.
    ///
    /// # Panics
    /// As for [`round`](Self::round).
    pub fn round_in(&mut self, context: &Context, gradient: &[f32]) {
        assert_eq!(gradient.len(), self.state.parameters.len(), "one gradient element for each parameter");
        if let Err(reason) = self.try_round(context, Gradient::Dense(gradient)) {
            panic!("the round failed: {reason}");
        }
    }

    /// Runs one round in which only these rows received a gradient; `values` contains it row by row. An optimizer that
    /// visits all rows sees a gradient of zero for the other rows.
    ///
    /// # Panics
    /// If the rows are not ascending or not in the tensor, the length of `values` does not match, or the round fails.
    pub fn round_rows(&mut self, context: &Context, rows: &[u32], values: &[f32]) {
        if let Err(reason) = self.try_round(context, Gradient::Rows { rows, values }) {
            panic!("the round failed: {reason}");
        }
    }

    /// Runs one round in this context, for optimizers whose rounds may fail.
    ///
    /// # Errors
    /// The reason that the optimizer fails; or the gradient does not fit, the learning rate is out of range, or a
    /// parameter or slot is no longer finite. A server would undo the changes of a failed round; here they remain.
    pub fn try_round(&mut self, context: &Context, gradient: Gradient<'_>) -> Result<(), String> {
        model::round(std::slice::from_mut(self), &[*context], &[gradient])
    }

    /// The evaluation weights: from the optimizer's evaluation phase, or the parameters if it has none or no round has
    /// run.
    ///
    /// # Panics
    /// If the optimizer fails, or a weight is not finite.
    pub fn evaluation(&self) -> Vec<f32> {
        let (Some(phase), Some(context)) = (self.plan.evaluation_phase(), self.last) else {
            return self.state.parameters.clone();
        };
        // The phase's changes to parameters and slots are discarded.
        let (mut state, mut combined) = (self.state.clone(), self.combined.clone());
        let mut weights = vec![0.0; self.state.parameters.len()];
        let mut pass = self.pass(phase, &context);
        if let Err(reason) = pass.evaluate(&mut state, &mut combined, &mut weights) {
            panic!("evaluation failed: {reason}");
        }
        if let Some(index) = state::position_not_finite(&weights) {
            panic!("evaluation failed: weight {index} is not finite");
        }
        weights
    }

    /// The current parameters.
    pub fn parameters(&self) -> &[f32] {
        &self.state.parameters
    }

    /// The values of the slot with this name; `None` if the optimizer has no such slot of `f32`.
    pub fn slot(&self, name: &str) -> Option<&[f32]> {
        self.slot_of(name)
    }

    /// The values of the slot with this name; `None` if the optimizer has no such slot of this type.
    pub fn slot_of<T: Element>(&self, name: &str) -> Option<&[T]> {
        let (position, slot) = self.plan.stored_slots().enumerate().find(|(_, slot)| slot.name == name)?;
        (slot.element == T::TYPE).then(|| cast::elements(self.state.slots[position].bytes()))
    }

    /// The bytes of the slot with this name, in native byte order; `None` if the optimizer has no such slot.
    pub fn slot_bytes(&self, name: &str) -> Option<&[u8]> {
        let position = self.plan.stored_slots().position(|slot| slot.name == name)?;
        Some(self.state.slots[position].bytes())
    }

    /// The tensor's description.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The number of completed rounds.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    fn forget_contributions(&mut self) {
        let all = 0..self.tensor.elements();
        self.combined = self
            .plan
            .accumulators
            .iter()
            .map(|accumulator| {
                let numbers = combined_range(accumulator.scope, &self.tensor, all.clone());
                vec![accumulator.combination.nothing(); (numbers.end - numbers.start) as usize]
            })
            .collect();
    }

    fn pass<'a>(&'a self, phase: usize, context: &'a Context) -> Pass<'a, O> {
        let (optimizer, tensor, plan) = (&self.optimizer, &self.tensor, &self.plan);
        Pass { optimizer, tensor, plan, phase, context, cuts: self.cuts }
    }

    /// Converts the gradient to the form that the plan requires.
    fn prepared<'g>(&self, gradient: Gradient<'g>) -> Result<Prepared<'g>, String> {
        let columns = self.tensor.columns() as usize;
        let touched = self.plan.granularity == Granularity::TouchedRows;
        match gradient {
            Gradient::Dense(values) if values.len() != self.state.parameters.len() => {
                Err(format!("{} gradient elements for {} parameters", values.len(), self.state.parameters.len()))
            }
            Gradient::Dense(values) if touched => {
                Ok(Prepared { values: Cow::Borrowed(values), rows: Some((0..self.tensor.rows() as u32).collect()) })
            }
            Gradient::Dense(values) => Ok(Prepared { values: Cow::Borrowed(values), rows: None }),
            Gradient::Rows { rows, values } => {
                let within = rows.last().is_none_or(|last| u64::from(*last) < self.tensor.rows());
                if !rows.is_sorted_by(|a, b| a < b) || !within || values.len() != rows.len() * columns {
                    return Err("rows must be ascending and in the tensor, and match the number of values".into());
                }
                if touched {
                    return Ok(Prepared { values: Cow::Borrowed(values), rows: Some(Cow::Borrowed(rows)) });
                }
                let mut dense = vec![0.0; self.state.parameters.len()];
                for (row, values) in rows.iter().zip(values.chunks(columns.max(1))) {
                    dense[*row as usize * columns..][..columns].copy_from_slice(values);
                }
                Ok(Prepared { values: Cow::Owned(dense), rows: None })
            }
        }
    }
}

/// A gradient in the form that a plan requires: with rows if touched rows are visited.
#[derive(Debug)]
struct Prepared<'g> {
    values: Cow<'g, [f32]>,
    rows: Option<Cow<'g, [u32]>>,
}
