//! Adagrad: steps shrink with the sum of a parameter's squared gradients.
//!
//! Follows "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization" (Duchi, Hazan and Singer,
//! JMLR 2011) in the variant of `torch.optim.Adagrad`: epsilon is outside the root, and the accumulator starts at 0.
//! For the variant of optax and Keras, set `epsilon_inside_root` with `epsilon` 1e-7 and `initial_accumulator` 0.1.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Adagrad (Duchi, Hazan and Singer, JMLR 2011), as torch.optim.Adagrad computes it.
    pub struct Adagrad {
        /// The learning rate is divided by 1 + this × (round - 1).
        learning_rate_decay: f32 = 0.0 in 0.0..,
        /// Multiple of the parameter that is added to its gradient (L2 penalty).
        weight_decay: f32 = 0.0 in 0.0..,
        /// What the sum of squares starts at.
        initial_accumulator: f32 = 0.0 in 0.0..,
        /// Added to the denominator.
        epsilon: f32 = 1e-10 in 1e-30..,
        /// Whether epsilon is added before the root is taken (optax, Keras) and not after it (torch).
        epsilon_inside_root: bool = false,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    rate: f32,
    weight_decay: f32,
    epsilon_inside: f32,
    epsilon_outside: f32,
}

impl Elementwise for Adagrad {
    const NAME: &'static str = "adagrad";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = Round;

    fn slots(&self) -> [Slot; 1] {
        [Slot::constant("sum", f64::from(self.initial_accumulator))]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let rounds_before = context.tensor_step.saturating_sub(1) as f64;
        let slowed = f64::from(context.learning_rate) / (1.0 + rounds_before * f64::from(self.learning_rate_decay));
        let (inside, outside) = if self.epsilon_inside_root { (self.epsilon, 0.0) } else { (0.0, self.epsilon) };
        Round { rate: slowed as f32, weight_decay: self.weight_decay, epsilon_inside: inside, epsilon_outside: outside }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [sum]: [f32; 1]) -> (f32, [f32; 1]) {
        let gradient = gradient + round.weight_decay * parameter;
        let sum = sum + gradient * gradient;
        let denominator = (sum + round.epsilon_inside).sqrt() + round.epsilon_outside;
        (parameter - round.rate * gradient / denominator, [sum])
    }
}

register!(Adagrad);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_against_the_gradients_sign() {
        let mut training = Native::new(Adagrad::default(), vec![1.0, 1.0, 1.0]);
        training.round(0.1, &[1e-3, -300.0, 0.0]);
        let [down, up, still] = training.parameters() else { unreachable!() };
        assert!((down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6, "{down} {up}");
        assert_eq!(*still, 1.0);
    }

    #[test]
    fn epsilon_counts_more_inside_the_root() {
        let step = |epsilon_inside_root| {
            let mut training =
                Native::new(Adagrad { epsilon: 0.25, epsilon_inside_root, ..Adagrad::default() }, vec![0.0]);
            training.round(1.0, &[0.5]);
            -training.parameters()[0]
        };
        assert!((step(false) - 0.5 / 0.75).abs() < 1e-6);
        assert!((step(true) - 0.5 / 0.5_f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(Adagrad::default(), vec![4.0, -4.0]);
        for _ in 0..3000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(0.5, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(Adagrad::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
