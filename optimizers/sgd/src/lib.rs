//! Stochastic gradient descent with momentum, Nesterov's variant and weight decay.
//!
//! Follows `torch.optim.SGD` with dampening 0: the decay is added to the gradient, the learning rate multiplies the
//! velocity at each step and is not kept within it, so that a change of the learning rate takes effect at once.
//! Nesterov's step as in Sutskever et al., "On the importance of initialization and momentum in deep learning"
//! (ICML 2013).

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

/// What one round has in common.
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
