//! Adan: momentum of gradients and of their differences.
//!
//! Follows "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models" (Xie et al., TPAMI 2024,
//! arXiv:2208.06677), algorithm 1, in the variant of the authors' code with `no_prox`. The betas are the retained
//! fractions (1 minus the paper's), all three moments are corrected for bias, the first difference is zero, and the
//! decoupled weight decay is subtracted in the step (the paper divides by `1 + learning rate × weight decay`). optax
//! 0.2.8 multiplies differences by `1 - beta2`, where the paper and the authors' code use what is `beta2` here.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Adan (Xie et al., arXiv:2208.06677), as its authors' code computes it (no_prox).
    pub struct Adan {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.98 in 0.0..1.0,
        /// Decay of the running mean of differences between successive gradients.
        beta2: f64 = 0.92 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta3: f64 = 0.99 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Share of a parameter that a learning rate of 1 would take away each round.
        weight_decay: f64 = 0.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    gradient_share: f32,
    beta2: f32,
    difference_share: f32,
    beta3: f32,
    square_share: f32,
    epsilon: f32,
    decay: f32,
    /// 0 in the first round, which has no previous gradient; then 1.
    of_difference: f32,
    /// The step is `(of_mean × mean + of_change × change) / denominator`.
    of_mean: f32,
    of_change: f32,
    root_correction: f32,
}

impl Elementwise for Adan {
    const NAME: &'static str = "adan";
    const LEARNING_RATE: f64 = 1e-3;
    type State = [f32; 4];
    type Round = Round;

    fn slots(&self) -> [Slot; 4] {
        [Slot::zero("mean"), Slot::zero("change"), Slot::zero("square"), Slot::zero("previous_gradient")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let rate = f64::from(context.learning_rate);
        let correction = |beta: f64| 1.0 - math::power(beta, context.tensor_step);
        Round {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            difference_share: (1.0 - self.beta2) as f32,
            beta3: self.beta3 as f32,
            square_share: (1.0 - self.beta3) as f32,
            epsilon: self.epsilon,
            decay: (rate * self.weight_decay) as f32,
            of_difference: if context.tensor_step > 1 { 1.0 } else { 0.0 },
            of_mean: (rate / correction(self.beta1)) as f32,
            of_change: (rate * self.beta2 / correction(self.beta2)) as f32,
            root_correction: correction(self.beta3).sqrt() as f32,
        }
    }

    #[inline(always)]
    fn update(
        round: &Round,
        parameter: f32,
        gradient: f32,
        [mean, change, square, previous]: [f32; 4],
    ) -> (f32, [f32; 4]) {
        let difference = round.of_difference * (gradient - previous);
        let mean = round.beta1 * mean + round.gradient_share * gradient;
        let change = round.beta2 * change + round.difference_share * difference;
        let ahead = gradient + round.beta2 * difference;
        let square = round.beta3 * square + round.square_share * ahead * ahead;
        let denominator = square.sqrt() / round.root_correction + round.epsilon;
        let step = (round.of_mean * mean + round.of_change * change) / denominator;
        (parameter - (round.decay * parameter + step), [mean, change, square, gradient])
    }
}

register!(Adan);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_against_the_gradients_sign() {
        let mut training = Native::new(Adan::default(), vec![1.0, 1.0, 1.0]);
        training.round(0.1, &[2.0, -4.0, 0.0]);
        let [down, up, still] = training.parameters() else { unreachable!() };
        assert!((down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6, "{down} {up}");
        assert_eq!(*still, 1.0);
        assert_eq!(training.slot("change"), Some(&[0.0; 3][..]));
        assert_eq!(training.slot("previous_gradient"), Some(&[2.0, -4.0, 0.0][..]));
    }

    #[test]
    fn the_second_step_by_hand() {
        let optimizer = Adan { beta1: 0.5, beta2: 0.75, beta3: 0.5, epsilon: 0.0, ..Adan::default() };
        let mut training = Native::new(optimizer, vec![0.0]);
        training.round(0.0, &[2.0]);
        training.round(1.0, &[4.0]);
        // mean = 0.5 × 1 + 0.5 × 4 = 2.5 over 0.75; change = 0.25 × 2 = 0.5 over 1 - 0.75² and times 0.75;
        // square = 0.5 × 2 + 0.5 × (4 + 0.75 × 2)² = 16.125 over 0.75.
        let expected = (2.5 / 0.75 + 0.75 * 0.5 / 0.4375) / (16.125_f32 / 0.75).sqrt();
        assert!((training.parameters()[0] + expected).abs() < 1e-6);
    }

    #[test]
    fn weight_decay_scales_the_parameter_in_proportion_to_the_learning_rate() {
        let mut training = Native::new(Adan { weight_decay: 0.5, ..Adan::default() }, vec![2.0]);
        training.round(0.5, &[0.0]);
        assert_eq!(training.parameters(), [1.5]);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(Adan::default(), vec![4.0, -4.0]);
        for round in 0..3000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 2000 { 0.05 } else { 0.001 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(Adan::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
