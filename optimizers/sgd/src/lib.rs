//! Stochastic gradient descent with momentum, Nesterov's variant and weight decay.
//!
//! Follows `torch.optim.SGD` with dampening 0: the decay is added to the gradient, and the learning rate multiplies the
//! velocity at each step but is not part of it, so that a change of the learning rate takes effect at once. Nesterov's
//! step is as in Sutskever et al., "On the importance of initialization and momentum in deep learning" (ICML 2013).

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Gradient descent with momentum, as torch.optim.SGD computes it (dampening 0).
    pub struct Sgd {
        /// Share of the velocity that is kept from round to round; 0 for plain gradient descent.
        momentum: f32 = 0.0 in 0.0..1.0,
        /// Whether to step along the velocity as it will be after the next decay (Nesterov).
        nesterov: bool = false,
        /// Multiple of the parameter that is added to its gradient (L2 penalty).
        weight_decay: f32 = 0.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    rate: f32,
    momentum: f32,
    weight_decay: f32,
    /// The step is `of_velocity × velocity + of_gradient × gradient`.
    of_velocity: f32,
    of_gradient: f32,
}

impl Elementwise for Sgd {
    const NAME: &'static str = "sgd";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = Round;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let (of_velocity, of_gradient) = if self.nesterov { (self.momentum, 1.0) } else { (1.0, 0.0) };
        Round {
            rate: context.learning_rate,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            of_velocity,
            of_gradient,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        let gradient = gradient + round.weight_decay * parameter;
        let velocity = round.momentum * velocity + gradient;
        let step = round.of_velocity * velocity + round.of_gradient * gradient;
        (parameter - round.rate * step, [velocity])
    }
}

register!(Sgd);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn velocity_builds_up_and_nesterov_steps_ahead_of_it() {
        let mut plain = Native::new(Sgd { momentum: 0.5, ..Sgd::default() }, vec![0.0]);
        let mut nesterov = Native::new(Sgd { momentum: 0.5, nesterov: true, ..Sgd::default() }, vec![0.0]);
        for (of_plain, of_nesterov) in [(-1.0, -1.5), (-2.5, -3.25)] {
            plain.round(1.0, &[1.0]);
            nesterov.round(1.0, &[1.0]);
            assert_eq!((plain.parameters()[0], nesterov.parameters()[0]), (of_plain, of_nesterov));
        }
    }

    #[test]
    fn a_change_of_the_learning_rate_takes_effect_at_once() {
        let mut training = Native::new(Sgd { momentum: 0.9, ..Sgd::default() }, vec![1.0]);
        training.round(0.5, &[1.0]);
        training.round(0.0, &[1.0]);
        assert_eq!(training.parameters(), [0.5]);
    }

    #[test]
    fn weight_decay_is_added_to_the_gradient() {
        let mut training = Native::new(Sgd { weight_decay: 0.5, ..Sgd::default() }, vec![2.0]);
        training.round(0.25, &[1.0]);
        assert_eq!(training.parameters(), [1.5]);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(Sgd { momentum: 0.9, ..Sgd::default() }, vec![4.0, -4.0]);
        for _ in 0..500 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(0.05, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }
}
