//! Running an optimizer natively: for tests, and as the figure a sandboxed run is compared with.

use crate::elementwise::run_block;
use crate::{Context, Elementwise, Slot, State, Tensor};

/// A tensor that is trained natively, with the very code that the component runs.
#[derive(Debug, Clone)]
pub struct Native<O: Elementwise> {
    optimizer: O,
    tensor: Tensor,
    parameters: Vec<f32>,
    slots: Vec<Vec<f32>>,
    rounds: u64,
}

impl<O: Elementwise> Native<O> {
    /// A vector of parameters before its first round.
    pub fn new(optimizer: O, parameters: Vec<f32>) -> Self {
        let shape = vec![parameters.len() as u64];
        Self::of_tensor(optimizer, Tensor { name: "tensor".into(), shape, ..Tensor::default() }, parameters)
    }

    /// A tensor before its first round. `parameters` has as many elements as the tensor's shape.
    pub fn of_tensor(optimizer: O, tensor: Tensor, parameters: Vec<f32>) -> Self {
        let first_values =
            |slot: &Slot| parameters.iter().map(|parameter| slot.first_value(*parameter)).collect::<Vec<_>>();
        let slots = optimizer.slots().as_ref().iter().map(first_values).collect();
        Self { optimizer, tensor, parameters, slots, rounds: 0 }
    }

    /// One round with this learning rate. `gradient` has as many elements as there are parameters.
    pub fn round(&mut self, learning_rate: f32, gradient: &[f32]) {
        let step = self.rounds + 1;
        self.round_in(
            &Context {
                step,
                tensor_step: step,
                learning_rate,
                peak_learning_rate: learning_rate,
                contributors: 1,
                staleness: 0,
                loss: None,
                seed: 0,
            },
            gradient,
        );
    }

    /// One round in this context.
    ///
    /// # Panics
    /// If `gradient` has another length than the parameters.
    pub fn round_in(&mut self, context: &Context, gradient: &[f32]) {
        assert_eq!(gradient.len(), self.parameters.len(), "one gradient element for each parameter");
        let round = self.optimizer.begin(&self.tensor, context);
        debug_assert_eq!(self.slots.len(), O::State::COUNT);
        let mut slots: Vec<&mut [f32]> = self.slots.iter_mut().map(Vec::as_mut_slice).collect();
        run_block::<O>(&round, &mut self.parameters, gradient, &mut slots);
        self.rounds += 1;
    }

    /// The parameters as they are now.
    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// The values of the slot with this name; `None` where the optimizer has no such slot.
    pub fn slot(&self, name: &str) -> Option<&[f32]> {
        let slots = self.optimizer.slots();
        let position = slots.as_ref().iter().position(|slot| slot.name() == name)?;
        Some(&self.slots[position])
    }
}
