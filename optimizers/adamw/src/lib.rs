//! AdamW: Adam with decoupled weight decay.
//!
//! Follows "Decoupled Weight Decay Regularization" (Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101) in the
//! variant of `torch.optim.AdamW`: decay by `learning rate × weight decay` before the step, both moments corrected
//! for bias, epsilon added after the correction.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), as torch.optim.AdamW computes it.
    pub struct AdamW {
        /// Decay of the running mean of gradients.
        beta1: f32 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta2: f32 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 0.0..1.0,
        /// Share of a parameter that a learning rate of 1 would take away each round.
        weight_decay: f32 = 0.01 in 0.0..,
    }
}

/// What one round has in common.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    kept: f32,
    rate: f32,
    root_correction: f32,
}

impl Elementwise for AdamW {
    const NAME: &'static str = "adamw";
    const LEARNING_RATE: f64 = 1e-3;
    type State = [f32; 2];
    type Round = Round;

    fn slots(&self) -> [Slot; 2] {
        [Slot::zero("mean"), Slot::zero("variance")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let rate = f64::from(context.learning_rate);
        let mean_correction = 1.0 - math::power(f64::from(self.beta1), context.tensor_step);
        let variance_correction = 1.0 - math::power(f64::from(self.beta2), context.tensor_step);
        Round {
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            kept: (1.0 - rate * f64::from(self.weight_decay)) as f32,
            rate: (rate / mean_correction) as f32,
            root_correction: variance_correction.sqrt() as f32,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [mean, variance]: [f32; 2]) -> (f32, [f32; 2]) {
        let mean = round.beta1 * mean + (1.0 - round.beta1) * gradient;
        let variance = round.beta2 * variance + (1.0 - round.beta2) * gradient * gradient;
        let denominator = variance.sqrt() / round.root_correction + round.epsilon;
        (parameter * round.kept - round.rate * mean / denominator, [mean, variance])
    }
}

register!(AdamW);
