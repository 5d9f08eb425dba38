//! Adadelta: steps in the unit of the parameters, computed from the sizes of recent steps and recent gradients.
//!
//! Follows "ADADELTA: An Adaptive Learning Rate Method" (Zeiler, arXiv:1212.5701), algorithm 1, in the variant of
//! `torch.optim.Adadelta` and `optax.adadelta`: epsilon is inside both roots, and the step is multiplied by the
//! learning rate after its square has entered the running mean.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Adadelta (Zeiler, arXiv:1212.5701), as torch.optim.Adadelta computes it.
    pub struct Adadelta {
        /// Decay of the running means of squared gradients and squared steps.
        rho: f32 = 0.9 in 0.0..1.0,
        /// Added inside both roots; its own root is about the size of the first steps.
        epsilon: f32 = 1e-6 in 1e-30..1.0,
        /// Multiple of the parameter that is added to its gradient (L2 penalty).
        weight_decay: f32 = 0.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    rho: f32,
    epsilon: f32,
    weight_decay: f32,
    rate: f32,
}

impl Elementwise for Adadelta {
    const NAME: &'static str = "adadelta";
    const LEARNING_RATE: f64 = 1.0;
    type State = [f32; 2];
    type Round = Round;

    fn slots(&self) -> [Slot; 2] {
        [Slot::zero("squared_gradients"), Slot::zero("squared_steps")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        Round { rho: self.rho, epsilon: self.epsilon, weight_decay: self.weight_decay, rate: context.learning_rate }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [gradients, steps]: [f32; 2]) -> (f32, [f32; 2]) {
        let gradient = gradient + round.weight_decay * parameter;
        let gradients = round.rho * gradients + (1.0 - round.rho) * gradient * gradient;
        let step = (steps + round.epsilon).sqrt() / (gradients + round.epsilon).sqrt() * gradient;
        let steps = round.rho * steps + (1.0 - round.rho) * step * step;
        (parameter - round.rate * step, [gradients, steps])
    }
}

register!(Adadelta);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_made_of_epsilon() {
        let optimizer = Adadelta { rho: 0.75, epsilon: 1e-6, ..Adadelta::default() };
        let mut training = Native::new(optimizer, vec![0.0, 0.0, 1.0]);
        training.round(1.0, &[2.0, -2.0, 0.0]);
        // Mean of squared gradients 0.25 × 4 = 1; the step is √1e-6 / √1.000001 × 2.
        let [down, up, still] = training.parameters() else { unreachable!() };
        assert!((down + 2e-3).abs() < 1e-8 && (up - 2e-3).abs() < 1e-8, "{down} {up}");
        assert_eq!(*still, 1.0);
        let squares = training.slot("squared_steps").unwrap();
        assert!((squares[0] - 1e-6).abs() < 1e-11 && squares[2] == 0.0, "{squares:?}");
    }

    #[test]
    fn the_learning_rate_does_not_enter_the_state() {
        let mut fast = Native::new(Adadelta::default(), vec![0.0]);
        let mut slow = Native::new(Adadelta::default(), vec![0.0]);
        for _ in 0..10 {
            fast.round(1.0, &[0.5]);
            slow.round(0.25, &[0.5]);
        }
        assert_eq!(fast.slot("squared_steps"), slow.slot("squared_steps"));
        assert!((fast.parameters()[0] / slow.parameters()[0] - 4.0).abs() < 1e-5);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(Adadelta::default(), vec![4.0, -4.0]);
        for round in 0..4000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 3000 { 1.0 } else { 0.05 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-2));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(Adadelta::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
