//! Adamax: Adam with the largest recent gradient in place of the root mean square.
//!
//! Follows "Adam: A Method for Stochastic Optimization" (Kingma and Ba, ICLR 2015, arXiv:1412.6980), section 7.1, in
//! the variant of `torch.optim.Adamax` and `optax.adamax`: epsilon is added to the gradient's absolute value before the
//! maximum is taken. The maximum needs no bias correction.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Adamax (Kingma and Ba, arXiv:1412.6980, section 7.1), as torch.optim.Adamax computes it.
    pub struct Adamax {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the largest absolute gradient.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to each absolute gradient.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Multiple of the parameter that is added to its gradient (L2 penalty).
        weight_decay: f32 = 0.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    gradient_share: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    rate: f32,
}

impl Elementwise for Adamax {
    const NAME: &'static str = "adamax";
    const LEARNING_RATE: f64 = 2e-3;
    type State = [f32; 2];
    type Round = Round;

    fn slots(&self) -> [Slot; 2] {
        [Slot::zero("mean"), Slot::zero("maximum")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let mean_correction = 1.0 - math::power(self.beta1, context.tensor_step);
        Round {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            rate: (f64::from(context.learning_rate) / mean_correction) as f32,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [mean, maximum]: [f32; 2]) -> (f32, [f32; 2]) {
        let gradient = gradient + round.weight_decay * parameter;
        let mean = round.beta1 * mean + round.gradient_share * gradient;
        let size = gradient.abs() + round.epsilon;
        let decayed = round.beta2 * maximum;
        let maximum = if size > decayed { size } else { decayed };
        (parameter - round.rate * mean / maximum, [mean, maximum])
    }
}

register!(Adamax);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_against_the_gradients_sign() {
        let mut training = Native::new(Adamax::default(), vec![1.0, 1.0, 1.0]);
        training.round(0.1, &[5.0, -0.25, 0.0]);
        let [down, up, still] = training.parameters() else { unreachable!() };
        assert!((down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6, "{down} {up}");
        assert_eq!(*still, 1.0);
    }

    #[test]
    fn the_maximum_decays_until_a_larger_gradient_comes() {
        let mut training = Native::new(Adamax { beta2: 0.5, epsilon: 0.0, ..Adamax::default() }, vec![0.0]);
        for (gradient, maximum) in [(8.0, 8.0), (-1.0, 4.0), (1.0, 2.0), (-3.0, 3.0)] {
            training.round(0.1, &[gradient]);
            assert_eq!(training.slot("maximum"), Some(&[maximum][..]));
        }
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(Adamax::default(), vec![4.0, -4.0]);
        for round in 0..2000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 1000 { 0.05 } else { 0.002 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(Adamax::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
