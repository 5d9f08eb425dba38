//! Running an optimizer natively: for tests, and as the figure a sandboxed run is compared with.

mod model;
mod pass;
mod state;

use std::borrow::Cow;

pub use model::NativeModel;

use crate::plan::{Granularity, Plan, combined_range};
use crate::{Context, Element, Optimizer, Tensor, cast};
use pass::{Cuts, Pass};
use state::State;

/// A tensor that is trained natively, with the very code that the component runs, and with the same bits.
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
    /// What each accumulator of the plan holds.
    combined: Vec<Vec<f64>>,
    rounds: u64,
    last: Option<Context>,
    cuts: Cuts,
    /// Whether rounds look for what is not finite.
    checked: bool,
}

/// What workers pushed, reduced.
#[derive(Debug, Clone, Copy)]
pub enum Gradient<'a> {
    /// One element for each parameter.
    Dense(&'a [f32]),
    /// Some rows of a tensor.
    Rows {
        /// Their indexes, ascending, each once.
        rows: &'a [u32],
        /// Their elements, row after row.
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

    /// A tensor before its first round. `parameters` has as many elements as the tensor's shape.
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
    /// What the optimizer said, what makes no sense in its plan, or another number of parameters than the shape holds.
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

    /// Without the look for parameters and slots that are not finite after each phase: for measurements that compare a
    /// server's round with the arithmetic alone.
    pub fn unchecked(mut self) -> Self {
        self.checked = false;
        self
    }

    /// Cuts the tensor into slices and blocks of this many elements, as a server may, to see that nothing changes. (Touched
    /// rows are cut at rows, and tensors that are visited whole not at all.)
    ///
    /// # Panics
    /// If one is no multiple of 4096 or 0.
    pub fn cut(mut self, slice_elements: usize, block_elements: usize) -> Self {
        self.cuts = Cuts::new(slice_elements, block_elements);
        self
    }

    /// One round with this learning rate. `gradient` has as many elements as there are parameters.
    ///
    /// # Panics
    /// If it has not, or the round fails as for [`try_round`](Self::try_round).
    pub fn round(&mut self, learning_rate: f32, gradient: &[f32]) {
        self.round_in(&Context::of_round(self.rounds + 1, learning_rate), gradient);
    }

    /// One round in this context.
    ///
    /// # Panics
    /// As [`round`](Self::round).
    pub fn round_in(&mut self, context: &Context, gradient: &[f32]) {
        assert_eq!(gradient.len(), self.state.parameters.len(), "one gradient element for each parameter");
        if let Err(reason) = self.try_round(context, Gradient::Dense(gradient)) {
            panic!("the round fails: {reason}");
        }
    }

    /// One round in which only these rows got a gradient, `values` row after row. Rows that are not listed have a gradient
    /// of zero for an optimizer that visits them all the same.
    ///
    /// # Panics
    /// If rows are not ascending or not in the tensor, `values` is not as long as they are, or the optimizer fails.
    pub fn round_rows(&mut self, context: &Context, rows: &[u32], values: &[f32]) {
        if let Err(reason) = self.try_round(context, Gradient::Rows { rows, values }) {
            panic!("the round fails: {reason}");
        }
    }

    /// One round in this context, for optimizers that may fail it.
    ///
    /// # Errors
    /// Why the optimizer fails, the gradient does not fit, the learning rate is out of range or, as a server sees to, a
    /// parameter or a slot is no longer finite. A server would take back what the round has changed so far; here it stays.
    pub fn try_round(&mut self, context: &Context, gradient: Gradient<'_>) -> Result<(), String> {
        model::round(std::slice::from_mut(self), &[*context], &[gradient])
    }

    /// Evaluation weights: from the optimizer's evaluation phase, or the parameters where it has none or no round was done.
    ///
    /// # Panics
    /// If the optimizer fails, or a weight is not finite.
    pub fn evaluation(&self) -> Vec<f32> {
        let (Some(phase), Some(context)) = (self.plan.evaluation_phase(), self.last) else {
            return self.state.parameters.clone();
        };
        // What the phase does to parameters and slots is taken back.
        let (mut state, mut combined) = (self.state.clone(), self.combined.clone());
        let mut weights = vec![0.0; self.state.parameters.len()];
        let mut pass = self.pass(phase, &context);
        if let Err(reason) = pass.evaluate(&mut state, &mut combined, &mut weights) {
            panic!("evaluation fails: {reason}");
        }
        if let Some(index) = state::position_not_finite(&weights) {
            panic!("evaluation fails: weight {index} is not finite");
        }
        weights
    }

    /// The parameters as they are now.
    pub fn parameters(&self) -> &[f32] {
        &self.state.parameters
    }

    /// The values of the slot with this name; `None` where the optimizer has no such slot of `f32`.
    pub fn slot(&self, name: &str) -> Option<&[f32]> {
        self.slot_of(name)
    }

    /// The values of the slot with this name; `None` where the optimizer has no such slot of this type.
    pub fn slot_of<T: Element>(&self, name: &str) -> Option<&[T]> {
        let (position, slot) = self.plan.stored_slots().enumerate().find(|(_, slot)| slot.name == name)?;
        (slot.element == T::TYPE).then(|| cast::elements(self.state.slots[position].bytes()))
    }

    /// The bytes of the slot with this name, in the machine's order; `None` where the optimizer has no such slot.
    pub fn slot_bytes(&self, name: &str) -> Option<&[u8]> {
        let position = self.plan.stored_slots().position(|slot| slot.name == name)?;
        Some(self.state.slots[position].bytes())
    }

    /// The tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Rounds done.
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

    /// The gradient as the plan wants it.
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
                    return Err("rows must be ascending, in the tensor, and as many as there are values for".into());
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

/// A gradient as a plan wants it: with rows where touched rows are visited.
#[derive(Debug)]
struct Prepared<'g> {
    values: Cow<'g, [f32]>,
    rows: Option<Cow<'g, [u32]>>,
}
