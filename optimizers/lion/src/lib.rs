//! Lion: steps by the sign of an interpolated momentum.
//!
//! Follows "Symbolic Discovery of Optimization Algorithms" (Chen et al., NeurIPS 2023, arXiv:2302.06675), program 1:
//! decoupled weight decay is part of the step, and the sign of zero is zero.

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

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    beta2: f32,
    rate: f32,
    decay: f32,
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
        Round { beta1: self.beta1, beta2: self.beta2, rate, decay: rate * self.weight_decay }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [momentum]: [f32; 1]) -> (f32, [f32; 1]) {
        let direction = math::sign(round.beta1 * momentum + (1.0 - round.beta1) * gradient);
        let momentum = round.beta2 * momentum + (1.0 - round.beta2) * gradient;
        (parameter - (round.decay * parameter + round.rate * direction), [momentum])
    }
}

register!(Lion);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_whatever_the_gradients_size() {
        let mut training = Native::new(Lion::default(), vec![1.0, 1.0, 1.0]);
        training.round(0.25, &[1e-20, -1e20, 0.0]);
        assert_eq!(training.parameters(), [0.75, 1.25, 1.0]);
    }

    #[test]
    fn the_step_and_the_momentum_weigh_the_gradient_differently() {
        let mut training = Native::new(Lion { beta1: 0.25, beta2: 0.75, ..Lion::default() }, vec![0.0]);
        training.round(0.0, &[4.0]);
        assert_eq!(training.slot("momentum"), Some(&[1.0][..]));
        // 0.25 × 1 - 0.75 × 1 is negative, 0.75 × 1 - 0.25 × 1 positive.
        training.round(1.0, &[-1.0]);
        assert_eq!(training.parameters(), [1.0]);
        assert_eq!(training.slot("momentum"), Some(&[0.5][..]));
    }

    #[test]
    fn weight_decay_is_in_proportion_to_the_learning_rate() {
        let mut training = Native::new(Lion { weight_decay: 0.5, ..Lion::default() }, vec![2.0]);
        training.round(0.5, &[0.0]);
        assert_eq!(training.parameters(), [1.5]);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(Lion::default(), vec![4.0, -4.0]);
        for round in 0..3000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 2000 { 0.01 } else { 0.0001 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-2));
    }
}
