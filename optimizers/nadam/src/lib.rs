//! NAdam: Adam with Nesterov momentum.
//!
//! Follows "Incorporating Nesterov Momentum into Adam" (Dozat, ICLR workshop 2016) with its momentum schedule `beta1 ×
//! (1 - 0.96^(round × momentum_decay) / 2)`, in the variant of `torch.optim.NAdam` and MXNet 1.9.1: epsilon is added
//! after the bias correction. (optax's `nadam` has no schedule; Keras fixes the exponent at the round.) MXNet keeps one
//! product of momenta for all tensors and multiplies it at each tensor's update; here, as in torch, each tensor has its
//! own product.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// NAdam (Dozat, ICLR workshop 2016) with its momentum schedule, as torch.optim.NAdam computes it.
    pub struct NAdam {
        /// Decay of the running mean of gradients, and what the momentum tends to.
        beta1: f64 = 0.9 in 0.0..=0.999,
        /// Decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// How fast the momentum grows from half of beta1 to beta1.
        momentum_decay: f64 = 0.004 in 0.0..,
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
    root_correction: f32,
    /// The step is `(of_mean × mean + of_gradient × gradient) / denominator`.
    of_mean: f32,
    of_gradient: f32,
}

impl NAdam {
    fn momentum(&self, round: u64) -> f64 {
        let exponent = round as f64 * self.momentum_decay;
        self.beta1 * (1.0 - 0.5 * math::powf(0.96, exponent))
    }

    /// Product of the momenta of rounds 1 to `round`. The loop stops once further factors no longer change `1 -
    /// product`: after 52 rounds with the defaults, and after 37 000 at most, because no momentum exceeds 0.999.
    fn momentum_product(&self, round: u64) -> f64 {
        let decay = math::powf(0.96, self.momentum_decay);
        let mut half = 0.5;
        let mut product = 1.0;
        for _ in 0..round {
            half *= decay;
            product *= self.beta1 * (1.0 - half);
            if product < f64::EPSILON / 4.0 {
                break;
            }
        }
        product
    }
}

impl Elementwise for NAdam {
    const NAME: &'static str = "nadam";
    const LEARNING_RATE: f64 = 2e-3;
    type State = [f32; 2];
    type Round = Round;

    fn slots(&self) -> [Slot; 2] {
        [Slot::zero("mean"), Slot::zero("variance")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let round = context.tensor_step;
        let rate = f64::from(context.learning_rate);
        let momentum = self.momentum(round);
        let next_momentum = self.momentum(round + 1);
        let product = self.momentum_product(round);
        let variance_correction = 1.0 - math::power(self.beta2, round);
        Round {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            root_correction: variance_correction.sqrt() as f32,
            of_mean: (rate * next_momentum / (1.0 - product * next_momentum)) as f32,
            of_gradient: (rate * (1.0 - momentum) / (1.0 - product)) as f32,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [mean, variance]: [f32; 2]) -> (f32, [f32; 2]) {
        let gradient = gradient + round.weight_decay * parameter;
        let mean = round.beta1 * mean + round.gradient_share * gradient;
        let variance = round.beta2 * variance + round.square_share * gradient * gradient;
        let denominator = variance.sqrt() / round.root_correction + round.epsilon;
        (parameter - (round.of_mean * mean + round.of_gradient * gradient) / denominator, [mean, variance])
    }
}

register!(NAdam);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_looks_ahead() {
        // Without a schedule, the momentum is beta1 / 2 = 0.25 in every round.
        let optimizer = NAdam { beta1: 0.5, momentum_decay: 0.0, epsilon: 0.0, ..NAdam::default() };
        let mut training = Native::new(optimizer, vec![0.0, 0.0]);
        training.round(0.1, &[4.0, -4.0]);
        let of_gradient = (1.0 - 0.25) / (1.0 - 0.25);
        let of_mean = 0.25 / (1.0 - 0.25 * 0.25) * 0.5;
        let expected = 0.1 * (of_gradient + of_mean);
        let [down, up] = training.parameters() else { unreachable!() };
        assert!((down + expected).abs() < 1e-6 && (up - expected).abs() < 1e-6, "{down} {up} {expected}");
    }

    #[test]
    fn the_product_of_momenta_is_that_of_all_rounds_up_to_rounding() {
        for momentum_decay in [0.0, 0.004, 1.0] {
            let optimizer = NAdam { beta1: 0.99, momentum_decay, ..NAdam::default() };
            let mut product = 1.0;
            for round in 1..=6000 {
                product *= optimizer.momentum(round);
                let error = (1.0 - optimizer.momentum_product(round)) - (1.0 - product);
                assert!(error.abs() < 1e-12, "round {round}: {error}");
            }
        }
    }

    #[test]
    fn a_late_round_is_as_cheap_as_an_early_one() {
        let mut training = Native::new(NAdam { beta1: 0.999, ..NAdam::default() }, vec![1.0]);
        let context = Context {
            step: u64::MAX / 2,
            tensor_step: u64::MAX / 2,
            learning_rate: 0.1,
            peak_learning_rate: 0.1,
            contributors: 1,
            staleness: 0,
            loss: None,
            seed: 0,
        };
        training.round_in(&context, &[1.0]);
        assert!(training.parameters()[0] < 1.0);
    }

    #[test]
    fn a_parameter_without_gradient_stays() {
        let mut training = Native::new(NAdam::default(), vec![3.0]);
        training.round(0.1, &[0.0]);
        assert_eq!(training.parameters(), [3.0]);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(NAdam::default(), vec![4.0, -4.0]);
        for round in 0..2000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 1000 { 0.05 } else { 0.001 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(NAdam::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
