//! RMSProp: gradients divided by the root of their recent mean square.
//!
//! Follows lecture 6 of "Neural Networks for Machine Learning" (Tieleman and Hinton, 2012) and, with `centered`,
//! "Generating Sequences With Recurrent Neural Networks" (Graves, arXiv:1308.0850), in the variant of
//! `torch.optim.RMSprop`: epsilon is outside the root, and the learning rate multiplies the velocity but is not part of
//! it. `epsilon_inside_root` selects the variant of optax, Keras and MXNet 1.9.1. Slots for the mean and the velocity
//! exist only if the hyperparameters require them.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

const SQUARE: Slot = Slot::zero("mean_square");
const MEAN: Slot = Slot::zero("mean");
const VELOCITY: Slot = Slot::zero("velocity");

hyperparameters! {
    /// RMSProp (Tieleman and Hinton, 2012; centered: Graves, arXiv:1308.0850), as torch.optim.RMSprop computes it.
    pub struct RmsProp {
        /// Decay of the running mean of squared gradients.
        decay: f64 = 0.99 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Share of the velocity that is kept from round to round; 0 for none.
        momentum: f32 = 0.0 in 0.0..1.0,
        /// Whether the squared mean of gradients is taken off their mean square.
        centered: bool = false,
        /// Whether epsilon is added before the root is taken (optax, MXNet) and not after it (torch).
        epsilon_inside_root: bool = false,
        /// Multiple of the parameter that is added to its gradient (L2 penalty).
        weight_decay: f32 = 0.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    decay: f32,
    new_share: f32,
    momentum: f32,
    weight_decay: f32,
    rate: f32,
    epsilon_inside: f32,
    epsilon_outside: f32,
}

impl Round {
    /// Returns the new parameter, mean square, mean and velocity. The mean is used only if `CENTERED`.
    #[inline(always)]
    fn update<const CENTERED: bool>(
        &self,
        parameter: f32,
        gradient: f32,
        [square, mean, velocity]: [f32; 3],
    ) -> (f32, [f32; 3]) {
        let gradient = gradient + self.weight_decay * parameter;
        let square = self.decay * square + self.new_share * gradient * gradient;
        let mean = self.decay * mean + self.new_share * gradient;
        let variance = if CENTERED { square - mean * mean } else { square };
        // Rounding can make it negative when gradients hardly change, and its root would then be NaN.
        let variance = if variance > 0.0 { variance } else { 0.0 };
        let denominator = (variance + self.epsilon_inside).sqrt() + self.epsilon_outside;
        let velocity = self.momentum * velocity + gradient / denominator;
        (parameter - self.rate * velocity, [square, mean, velocity])
    }
}

impl Optimizer for RmsProp {
    const NAME: &'static str = "rmsprop";
    const LEARNING_RATE: f64 = 0.01;
    type Round = Round;

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        let mut plan = Plan::new().slots(&[SQUARE]);
        if self.centered {
            plan = plan.slots(&[MEAN]);
        }
        if self.momentum > 0.0 {
            plan = plan.slots(&[VELOCITY]);
        }
        Ok(plan)
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<Round, String> {
        let (inside, outside) = if self.epsilon_inside_root { (self.epsilon, 0.0) } else { (0.0, self.epsilon) };
        Ok(Round {
            decay: self.decay as f32,
            new_share: (1.0 - self.decay) as f32,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            rate: context.learning_rate,
            epsilon_inside: inside,
            epsilon_outside: outside,
        })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let round = *round;
        match (self.centered, self.momentum > 0.0) {
            (false, false) => block.update([SQUARE], |parameter, gradient, [square]| {
                let (parameter, [square, ..]) = round.update::<false>(parameter, gradient, [square, 0.0, 0.0]);
                (parameter, [square])
            }),
            (false, true) => block.update([SQUARE, VELOCITY], |parameter, gradient, [square, velocity]| {
                let state = [square, 0.0, velocity];
                let (parameter, [square, _, velocity]) = round.update::<false>(parameter, gradient, state);
                (parameter, [square, velocity])
            }),
            (true, false) => block.update([SQUARE, MEAN], |parameter, gradient, [square, mean]| {
                let (parameter, [square, mean, _]) = round.update::<true>(parameter, gradient, [square, mean, 0.0]);
                (parameter, [square, mean])
            }),
            (true, true) => block.update([SQUARE, MEAN, VELOCITY], |parameter, gradient, state| {
                round.update::<true>(parameter, gradient, state)
            }),
        }
    }
}

register!(RmsProp);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_gradient_over_the_root_of_its_share_in_the_mean() {
        let mut training = Native::new(RmsProp { decay: 0.75, ..RmsProp::default() }, vec![1.0, 1.0, 1.0]);
        training.round(0.1, &[3.0, -0.5, 0.0]);
        // g / √(0.25 g²) = ±2.
        let [down, up, still] = training.parameters() else { unreachable!() };
        assert!((down - 0.8).abs() < 1e-6 && (up - 1.2).abs() < 1e-6, "{down} {up}");
        assert_eq!(*still, 1.0);
    }

    #[test]
    fn epsilon_counts_more_inside_the_root() {
        let step = |epsilon_inside_root| {
            let optimizer = RmsProp { decay: 0.0, epsilon: 0.25, epsilon_inside_root, ..RmsProp::default() };
            let mut training = Native::new(optimizer, vec![0.0]);
            training.round(1.0, &[0.5]);
            -training.parameters()[0]
        };
        assert!((step(false) - 0.5 / 0.75).abs() < 1e-6);
        assert!((step(true) - 0.5 / 0.5_f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn a_centred_denominator_is_smaller() {
        let optimizer = RmsProp { decay: 0.5, epsilon: 0.0, centered: true, ..RmsProp::default() };
        let mut training = Native::new(optimizer, vec![0.0]);
        training.round(1.0, &[2.0]);
        // Mean square 2, mean 1: √(2 - 1²) = 1.
        assert!((training.parameters()[0] + 2.0).abs() < 1e-6);
    }

    #[test]
    fn steady_gradients_keep_the_centred_variant_finite() {
        let mut training = Native::new(RmsProp { decay: 0.5, centered: true, ..RmsProp::default() }, vec![0.0]);
        for _ in 0..200 {
            training.round(1e-9, &[0.1]);
        }
        assert!(training.parameters()[0].is_finite());
    }

    #[test]
    fn a_change_of_the_learning_rate_takes_effect_at_once() {
        let mut training = Native::new(RmsProp { momentum: 0.9, ..RmsProp::default() }, vec![1.0]);
        training.round(0.1, &[1.0]);
        let before = training.parameters()[0];
        training.round(0.0, &[1.0]);
        assert_eq!(training.parameters()[0], before);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        for centered in [false, true] {
            let optimizer = RmsProp { momentum: 0.5, centered, ..RmsProp::default() };
            let mut training = Native::new(optimizer, vec![4.0, -4.0]);
            for round in 0..3000 {
                let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
                training.round(if round < 2000 { 0.01 } else { 0.0001 }, &gradient);
            }
            assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-2));
        }
    }

    #[test]
    fn there_is_state_only_for_what_is_asked_for() {
        let slots = |centered, momentum| {
            let training = Native::new(RmsProp { centered, momentum, ..RmsProp::default() }, vec![0.0]);
            ["mean_square", "mean", "velocity"].map(|name| training.slot(name).is_some())
        };
        assert_eq!(slots(false, 0.0), [true, false, false]);
        assert_eq!(slots(true, 0.0), [true, true, false]);
        assert_eq!(slots(false, 0.5), [true, false, true]);
        assert_eq!(slots(true, 0.5), [true, true, true]);
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(RmsProp::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
