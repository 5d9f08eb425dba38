//! Signum: steps by the sign of a momentum.
//!
//! Follows "signSGD: Compressed Optimisation for Non-Convex Problems" (Bernstein et al., ICML 2018, arXiv:1802.04434)
//! in the variant of MXNet 1.9.1's `Signum`: the momentum is a running mean, the sign of zero is zero, and there are
//! two weight decays, one in the gradient and one decoupled. With momentum 0 it is signSGD. (In that case MXNet also
//! decouples the first decay; here it stays in the gradient.)

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Signum (Bernstein et al., arXiv:1802.04434), as MXNet 1.9.1 computes it.
    pub struct Signum {
        /// Decay of the running mean of gradients; 0 for signSGD.
        momentum: f32 = 0.9 in 0.0..1.0,
        /// Multiple of the parameter that is added to its gradient (L2 penalty).
        weight_decay: f32 = 0.0 in 0.0..,
        /// Share of a parameter that a learning rate of 1 would take away each round.
        decoupled_weight_decay: f32 = 0.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    momentum: f32,
    weight_decay: f32,
    kept: f32,
    rate: f32,
}

impl Elementwise for Signum {
    const NAME: &'static str = "signum";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = Round;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("momentum")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let rate = context.learning_rate;
        Round {
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            kept: 1.0 - rate * self.decoupled_weight_decay,
            rate,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [momentum]: [f32; 1]) -> (f32, [f32; 1]) {
        let gradient = gradient + round.weight_decay * parameter;
        let momentum = round.momentum * momentum + (1.0 - round.momentum) * gradient;
        (parameter * round.kept - round.rate * math::sign(momentum), [momentum])
    }
}

register!(Signum);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_whatever_the_gradients_size() {
        let mut training = Native::new(Signum::default(), vec![1.0, 1.0, 1.0]);
        training.round(0.25, &[1e-20, -1e20, 0.0]);
        assert_eq!(training.parameters(), [0.75, 1.25, 1.0]);
    }

    #[test]
    fn one_opposite_gradient_does_not_turn_the_momentum() {
        let mut training = Native::new(Signum::default(), vec![0.0]);
        (0..4).for_each(|_| training.round(0.5, &[1.0]));
        training.round(0.5, &[-1.0]);
        assert_eq!(training.parameters(), [-2.5]);
    }

    #[test]
    fn one_decay_turns_the_sign_and_the_other_scales_the_parameter() {
        let mut coupled = Native::new(Signum { weight_decay: 0.5, ..Signum::default() }, vec![4.0]);
        coupled.round(0.5, &[-1.0]);
        assert_eq!(coupled.parameters(), [3.5]);
        let mut decoupled = Native::new(Signum { decoupled_weight_decay: 0.5, ..Signum::default() }, vec![4.0]);
        decoupled.round(0.5, &[-1.0]);
        assert_eq!(decoupled.parameters(), [3.5]);
        let mut neither = Native::new(Signum::default(), vec![4.0]);
        neither.round(0.5, &[-1.0]);
        assert_eq!(neither.parameters(), [4.5]);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(Signum { momentum: 0.5, ..Signum::default() }, vec![4.0, -4.0]);
        for round in 0..3000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 2000 { 0.01 } else { 0.0001 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }
}
