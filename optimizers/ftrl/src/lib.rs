//! FTRL-Proximal: sparse weights for online logistic regression.
//!
//! Follows "Ad Click Prediction: a View from the Trenches" (McMahan et al., KDD 2013), algorithm 1, in the variant of
//! MXNet 1.9.1's `Ftrl`. A weight is a function of its state alone, so the initial parameters have no effect after the
//! first round: start them at zero.
//!
//! Keep the learning rate (the paper's alpha, above zero) constant: weights are proportional to it, so a change
//! immediately rescales every weight that has a gradient.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// FTRL-Proximal (McMahan et al., KDD 2013), as MXNet 1.9.1 computes it.
    pub struct Ftrl {
        /// Weight of the L1 penalty: parameters whose gradients add up to less are exactly zero.
        lambda1: f32 = 0.01 in 0.0..,
        /// Added to the root of the sum of squared gradients, for smaller steps in early rounds.
        beta: f32 = 1.0 in 1e-30..,
        /// Weight of the L2 penalty.
        weight_decay: f32 = 0.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    lambda1: f32,
    beta: f32,
    weight_decay: f32,
    rate: f32,
}

impl Elementwise for Ftrl {
    const NAME: &'static str = "ftrl";
    const LEARNING_RATE: f64 = 0.1;
    const LEARNING_RATE_MAY_BE_ZERO: bool = false;
    type State = [f32; 2];
    type Round = Round;

    fn slots(&self) -> [Slot; 2] {
        [Slot::zero("z"), Slot::zero("n")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        Round { lambda1: self.lambda1, beta: self.beta, weight_decay: self.weight_decay, rate: context.learning_rate }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [z, n]: [f32; 2]) -> (f32, [f32; 2]) {
        let new_n = n + gradient * gradient;
        let root = new_n.sqrt();
        let z = z + (gradient - (root - n.sqrt()) * parameter / round.rate);
        let beyond = math::sign(z) * round.lambda1 - z;
        let numerator = if z.abs() > round.lambda1 { beyond } else { 0.0 };
        (numerator / ((round.beta + root) / round.rate + round.weight_decay), [z, new_n])
    }
}

register!(Ftrl);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_by_hand() {
        let optimizer = Ftrl { lambda1: 0.5, beta: 1.0, weight_decay: 2.0 };
        let mut training = Native::new(optimizer, vec![0.0, 0.0, 0.0, 0.0]);
        training.round(0.5, &[3.0, -3.0, 0.25, 0.0]);
        // z = 3, n = 9: (0.5 - 3) / ((1 + 3) / 0.5 + 2) = -0.25. A z of 0.25 is below the L1 penalty.
        assert_eq!(training.parameters(), [-0.25, 0.25, 0.0, 0.0]);
        assert_eq!(training.slot("z"), Some(&[3.0, -3.0, 0.25, 0.0][..]));
        assert_eq!(training.slot("n"), Some(&[9.0, 9.0, 0.0625, 0.0][..]));
    }

    #[test]
    fn a_learning_rate_of_zero_is_refused() {
        let mut training = Native::new(Ftrl::default(), vec![1.0]);
        let refused = training.try_round(&Context::of_round(1, 0.0), Gradient::Dense(&[1.0])).unwrap_err();
        assert!(refused.contains("learning rate"), "{refused}");
        assert_eq!(training.parameters(), [1.0]);
    }

    #[test]
    fn a_weight_without_gradient_keeps_its_value() {
        let mut training = Native::new(Ftrl::default(), vec![0.0]);
        training.round(0.1, &[2.0]);
        let weight = training.parameters()[0];
        training.round(0.1, &[0.0]);
        assert_eq!(training.parameters(), [weight]);
    }

    #[test]
    fn gradients_that_cancel_leave_weights_at_exactly_zero() {
        let mut training = Native::new(Ftrl { lambda1: 1.0, ..Ftrl::default() }, vec![0.0, 0.0]);
        for round in 0..100 {
            let noise = if round % 2 == 0 { 0.9 } else { -0.9 };
            training.round(0.1, &[noise, noise - 0.5]);
        }
        let [useless, useful] = training.parameters() else { unreachable!() };
        assert!(*useless == 0.0 && *useful > 0.1, "{useless} {useful}");
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(Ftrl { lambda1: 0.0, ..Ftrl::default() }, vec![0.0, 0.0]);
        for _ in 0..5000 {
            let [first, second] = training.parameters() else { unreachable!() };
            let gradient = [first - 1.0, second + 2.0];
            training.round(0.5, &gradient);
        }
        let [first, second] = training.parameters() else { unreachable!() };
        assert!((first - 1.0).abs() < 1e-3 && (second + 2.0).abs() < 1e-3, "{first} {second}");
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(Ftrl::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
