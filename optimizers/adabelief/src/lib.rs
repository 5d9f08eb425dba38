//! AdaBelief: Adam that divides by how far gradients deviate from their running mean.
//!
//! Follows "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients" (Zhuang et al., NeurIPS 2020,
//! arXiv:2010.07468) in the variant of `optax.adabelief`: both moments are corrected for bias, `epsilon_root` is added
//! to the variance in every round and stays in it, and `epsilon` is added to the denominator.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// AdaBelief (Zhuang et al., arXiv:2010.07468), as optax.adabelief computes it.
    pub struct AdaBelief {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared differences from that mean.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-16 in 1e-30..1.0,
        /// Added to the running mean of squared differences in each round.
        epsilon_root: f32 = 1e-16 in 1e-30..1.0,
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
    epsilon_root: f32,
    rate: f32,
    root_correction: f32,
}

impl Elementwise for AdaBelief {
    const NAME: &'static str = "adabelief";
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
            epsilon_root: self.epsilon_root,
            rate: (f64::from(context.learning_rate) / mean_correction) as f32,
            root_correction: variance_correction.sqrt() as f32,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [mean, variance]: [f32; 2]) -> (f32, [f32; 2]) {
        let mean = round.beta1 * mean + round.gradient_share * gradient;
        let surprise = gradient - mean;
        let variance = round.beta2 * variance + round.square_share * surprise * surprise + round.epsilon_root;
        let denominator = variance.sqrt() / round.root_correction + round.epsilon;
        (parameter - round.rate * mean / denominator, [mean, variance])
    }
}

register!(AdaBelief);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_divides_by_the_part_of_the_gradient_that_the_mean_leaves() {
        // mean = 0.1 g, corrected to g; surprise = 0.9 g, and so is its corrected root.
        let mut training = Native::new(AdaBelief::default(), vec![1.0, 1.0, 1.0]);
        training.round(0.09, &[2.0, -0.5, 0.0]);
        let [down, up, still] = training.parameters() else { unreachable!() };
        assert!((down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6, "{down} {up}");
        assert_eq!(*still, 1.0);
    }

    #[test]
    fn steady_gradients_give_longer_steps_than_changing_ones() {
        let optimizer = AdaBelief { beta2: 0.9, ..AdaBelief::default() };
        let mut training = Native::new(optimizer, vec![0.0, 0.0]);
        for round in 0..100 {
            let changing = if round % 2 == 0 { 3.0 } else { -1.0 };
            training.round(0.01, &[1.0, changing]);
        }
        let [steady, changing] = training.parameters() else { unreachable!() };
        assert!(*steady < 4.0 * changing && *changing < 0.0, "{steady} {changing}");
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(AdaBelief::default(), vec![4.0, -4.0]);
        for round in 0..2000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 1000 { 0.05 } else { 0.001 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(AdaBelief::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
