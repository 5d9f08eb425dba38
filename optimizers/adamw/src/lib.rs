//! AdamW: Adam with decoupled weight decay.
//!
//! Follows "Decoupled Weight Decay Regularization" (Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101) in the variant
//! of `torch.optim.AdamW` and `optax.adamw`: both moments are corrected for bias, epsilon is added after the
//! correction, and the decay, `learning rate × weight decay` times the old parameter, is part of the step. (As a factor
//! `1 - learning rate × weight decay` of the parameter it would be rounded to binary32, which leaves few digits of a
//! decay of a millionth.)

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), as torch.optim.AdamW computes it.
    pub struct AdamW {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Share of a parameter that a learning rate of 1 would take away each round.
        weight_decay: f64 = 0.01 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    gradient_share: f32,
    beta2: f32,
    square_share: f32,
    epsilon: f32,
    decay: f32,
    rate: f32,
    /// 1 over the root of the variance's bias correction.
    root_factor: f32,
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
        let mean_correction = 1.0 - math::power(self.beta1, context.tensor_step);
        let variance_correction = 1.0 - math::power(self.beta2, context.tensor_step);
        Round {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon,
            decay: (rate * self.weight_decay) as f32,
            rate: (rate / mean_correction) as f32,
            root_factor: (1.0 / variance_correction.sqrt()) as f32,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [mean, variance]: [f32; 2]) -> (f32, [f32; 2]) {
        let mean = round.beta1 * mean + round.gradient_share * gradient;
        let variance = round.beta2 * variance + round.square_share * gradient * gradient;
        let denominator = variance.sqrt() * round.root_factor + round.epsilon;
        (parameter - (round.decay * parameter + round.rate * mean / denominator), [mean, variance])
    }
}

register!(AdamW);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_against_the_gradients_sign() {
        let mut training = Native::new(AdamW { weight_decay: 0.0, ..AdamW::default() }, vec![1.0, 1.0, 1.0]);
        training.round(0.1, &[2.0, -300.0, 0.0]);
        let [down, up, still] = training.parameters() else { unreachable!() };
        assert!((down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6, "{down} {up}");
        assert_eq!(*still, 1.0);
    }

    #[test]
    fn weight_decay_is_in_proportion_to_the_learning_rate_and_leaves_the_moments_alone() {
        let mut training = Native::new(AdamW { weight_decay: 0.5, ..AdamW::default() }, vec![2.0]);
        training.round(0.5, &[0.0]);
        assert_eq!(training.parameters(), [1.5]);
        assert_eq!(training.slot("mean"), Some(&[0.0][..]));
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(AdamW { weight_decay: 0.0, ..AdamW::default() }, vec![4.0, -4.0]);
        for round in 0..2000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 1000 { 0.05 } else { 0.001 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(AdamW::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
