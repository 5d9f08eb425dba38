//! Lion: the sign of an interpolated momentum.
//!
//! Follows "Symbolic Discovery of Optimization Algorithms" (Chen et al., NeurIPS 2023, arXiv:2302.06675), program 1:
//! decoupled weight decay, the sign of zero is zero.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Lion (Chen et al., arXiv:2302.06675): steps by the sign of an interpolated momentum.
    pub struct Lion {
        /// Weight of the momentum, against the gradient, in the step.
        beta1: f32 = 0.9 in 0.0..1.0,
        /// Decay of the momentum.
        beta2: f32 = 0.99 in 0.0..1.0,
        /// Share of a parameter that a learning rate of 1 would take away each round.
        weight_decay: f32 = 0.0 in 0.0..,
    }
}

/// What one round has in common.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    beta2: f32,
    rate: f32,
    kept: f32,
}

impl Elementwise for Lion {
    const NAME: &'static str = "lion";
    const LEARNING_RATE: f64 = 1e-4;
    type State = [f32; 1];
    type Round = Round;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("momentum")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let rate = context.learning_rate;
        Round { beta1: self.beta1, beta2: self.beta2, rate, kept: 1.0 - rate * self.weight_decay }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [momentum]: [f32; 1]) -> (f32, [f32; 1]) {
        let direction = math::sign(round.beta1 * momentum + (1.0 - round.beta1) * gradient);
        let momentum = round.beta2 * momentum + (1.0 - round.beta2) * gradient;
        (parameter * round.kept - round.rate * direction, [momentum])
    }
}

register!(Lion);
