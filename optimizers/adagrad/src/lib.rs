//! Adagrad: steps shrink with the sum of a parameter's squared gradients.
//!
//! Follows "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization" (Duchi, Hazan and Singer,
//! JMLR 2011) in the variant of `torch.optim.Adagrad`: epsilon outside the root, the accumulator starts at 0. (Keras
//! and optax put epsilon inside the root and start at 0.1.)

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Adagrad (Duchi, Hazan and Singer, JMLR 2011), as torch.optim.Adagrad computes it.
    pub struct Adagrad {
        /// The learning rate is divided by 1 + this × (round - 1).
        learning_rate_decay: f32 = 0.0 in 0.0..,
        /// Multiple of the parameter that is added to its gradient (L2 penalty).
        weight_decay: f32 = 0.0 in 0.0..,
        /// What the sum of squares starts at.
        initial_accumulator: f32 = 0.0 in 0.0..,
        /// Added to the denominator.
        epsilon: f32 = 1e-10 in 0.0..,
    }
}

/// What one round has in common.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    rate: f32,
    weight_decay: f32,
    epsilon: f32,
}

impl Elementwise for Adagrad {
    const NAME: &'static str = "adagrad";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = Round;

    fn slots(&self) -> [Slot; 1] {
        [Slot::constant("sum", f64::from(self.initial_accumulator))]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let rounds_before = context.tensor_step.saturating_sub(1) as f64;
        let slowed = f64::from(context.learning_rate) / (1.0 + rounds_before * f64::from(self.learning_rate_decay));
        Round { rate: slowed as f32, weight_decay: self.weight_decay, epsilon: self.epsilon }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [sum]: [f32; 1]) -> (f32, [f32; 1]) {
        let gradient = gradient + round.weight_decay * parameter;
        let sum = sum + gradient * gradient;
        (parameter - round.rate * gradient / (sum.sqrt() + round.epsilon), [sum])
    }
}

register!(Adagrad);
