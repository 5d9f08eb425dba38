//! Adam: steps along the mean of gradients, divided for each parameter by the root mean square of its gradients.
//!
//! Follows "Adam: A Method for Stochastic Optimization" (Kingma and Ba, ICLR 2015, arXiv:1412.6980) in the variant of
//! `torch.optim.Adam` and `optax.adam`: both moments are corrected for bias, and epsilon is added after the correction.
//! (MXNet and Keras fold the correction into the learning rate, which makes their epsilon effectively larger in early
//! rounds.) Weight decay is an L2 penalty: it is added to the gradient and passes through the moments. `adamw`
//! decouples it.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Adam (Kingma and Ba, arXiv:1412.6980), as torch.optim.Adam computes it.
    pub struct Adam {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
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
    square_share: f32,
    epsilon: f32,
    weight_decay: f32,
    rate: f32,
    root_correction: f32,
}

impl Elementwise for Adam {
    const NAME: &'static str = "adam";
    const LEARNING_RATE: f64 = 1e-3;
    type State = [f32; 2];
    type Round = Round;

    fn slots(&self) -> [Slot; 2] {
        [Slot::zero("mean"), Slot::zero("variance")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let mean_correction = 1.0 - math::power(self.beta1, context.tensor_step);
        let variance_correction = 1.0 - math::power(self.beta2, context.tensor_step);
        Round {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            rate: (f64::from(context.learning_rate) / mean_correction) as f32,
            root_correction: variance_correction.sqrt() as f32,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [mean, variance]: [f32; 2]) -> (f32, [f32; 2]) {
        let gradient = gradient + round.weight_decay * parameter;
        let mean = round.beta1 * mean + round.gradient_share * gradient;
        let variance = round.beta2 * variance + round.square_share * gradient * gradient;
        let denominator = variance.sqrt() / round.root_correction + round.epsilon;
        (parameter - round.rate * mean / denominator, [mean, variance])
    }
}

register!(Adam);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_against_the_gradients_sign() {
        let mut training = Native::new(Adam { epsilon: 0.0, ..Adam::default() }, vec![1.0, 1.0]);
        training.round(0.1, &[1e-6, -300.0]);
        let [down, up] = training.parameters() else { unreachable!() };
        assert!((down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6, "{down} {up}");
    }

    #[test]
    fn a_parameter_without_gradient_stays() {
        let mut training = Native::new(Adam::default(), vec![3.0]);
        training.round(0.1, &[0.0]);
        assert_eq!(training.parameters(), [3.0]);
    }

    #[test]
    fn weight_decay_acts_through_the_gradient() {
        let mut decayed = Native::new(Adam { weight_decay: 0.5, ..Adam::default() }, vec![2.0]);
        let mut pushed = Native::new(Adam::default(), vec![2.0]);
        decayed.round(0.1, &[0.0]);
        pushed.round(0.1, &[1.0]);
        assert_eq!(decayed.parameters(), pushed.parameters());
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(Adam::default(), vec![4.0, -4.0]);
        for round in 0..2000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 1000 { 0.05 } else { 0.001 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(Adam::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
