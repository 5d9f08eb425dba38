//! RAdam: Adam that waits until the variance of its denominator is tractable.
//!
//! Follows "On the Variance of the Adaptive Learning Rate and Beyond" (Liu et al., ICLR 2020, arXiv:1908.03265) in the
//! variant of `optax.radam`: while the approximated simple moving average is shorter than 5, the step is the corrected
//! mean alone; afterwards it is Adam's step times the rectification. Epsilon is added after the bias correction.
//! (`torch.optim.RAdam` adds it before, so that the two differ for gradients as small as epsilon.)

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

/// Length of the approximated simple moving average at which its variance becomes tractable. The paper uses 4; the
/// authors' code, torch and optax use 5.
const THRESHOLD: f64 = 5.0;

hyperparameters! {
    /// RAdam (Liu et al., arXiv:1908.03265), as optax.radam computes it.
    pub struct RAdam {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
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
    weight_decay: f32,
    rate: f32,
    /// The denominator is `of_root × √variance + constant`; it is 1 while the step is not rectified.
    of_root: f32,
    constant: f32,
}

/// The factor that compensates for the variance of the denominator; `None` while that variance is intractable.
fn rectification(beta2: f64, round: u64) -> Option<f64> {
    let longest = 2.0 / (1.0 - beta2) - 1.0;
    let kept = math::power(beta2, round);
    let length = longest - 2.0 * round as f64 * kept / (1.0 - kept);
    let variance_ratio = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length);
    (length >= THRESHOLD).then(|| variance_ratio.sqrt())
}

impl Elementwise for RAdam {
    const NAME: &'static str = "radam";
    const LEARNING_RATE: f64 = 1e-3;
    type State = [f32; 2];
    type Round = Round;

    fn slots(&self) -> [Slot; 2] {
        [Slot::zero("mean"), Slot::zero("variance")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let mean_correction = 1.0 - math::power(self.beta1, context.tensor_step);
        let variance_correction = 1.0 - math::power(self.beta2, context.tensor_step);
        let rate = f64::from(context.learning_rate) / mean_correction;
        let (rate, of_root, constant) = match rectification(self.beta2, context.tensor_step) {
            Some(rectification) => (rate * rectification, 1.0 / variance_correction.sqrt(), self.epsilon),
            None => (rate, 0.0, 1.0),
        };
        Round {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            weight_decay: self.weight_decay,
            rate: rate as f32,
            of_root: of_root as f32,
            constant,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [mean, variance]: [f32; 2]) -> (f32, [f32; 2]) {
        let gradient = gradient + round.weight_decay * parameter;
        let mean = round.beta1 * mean + round.gradient_share * gradient;
        let variance = round.beta2 * variance + round.square_share * gradient * gradient;
        let denominator = round.of_root * variance.sqrt() + round.constant;
        (parameter - round.rate * mean / denominator, [mean, variance])
    }
}

register!(RAdam);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_steps_are_along_the_mean_and_feel_the_gradients_size() {
        let mut training = Native::new(RAdam::default(), vec![1.0, 1.0, 1.0]);
        training.round(0.1, &[2.0, -0.5, 0.0]);
        let [large, small, still] = training.parameters() else { unreachable!() };
        assert!((large - 0.8).abs() < 1e-6 && (small - 1.05).abs() < 1e-6, "{large} {small}");
        assert_eq!(*still, 1.0);
    }

    #[test]
    fn rectification_begins_in_the_sixth_round_and_tends_to_one() {
        assert_eq!(rectification(0.999, 5), None);
        assert!(rectification(0.999, 6).is_some_and(|factor| factor > 0.0 && factor < 0.03));
        assert!(rectification(0.999, 100_000).is_some_and(|factor| (factor - 1.0).abs() < 1e-12));
    }

    #[test]
    fn from_the_sixth_round_on_steps_do_not_depend_on_the_gradients_size() {
        let mut training = Native::new(RAdam { epsilon: 0.0, ..RAdam::default() }, vec![0.0, 0.0]);
        (0..5).for_each(|_| training.round(0.0, &[1.0, 1000.0]));
        training.round(1.0, &[1.0, 1000.0]);
        let [small, large] = training.parameters() else { unreachable!() };
        assert!(*small < 0.0 && (small / large - 1.0).abs() < 1e-5, "{small} {large}");
    }

    #[test]
    fn a_short_memory_is_never_rectified() {
        // With beta2 = 0.5, the average is at most 3 rounds long, which is below the threshold in all rounds.
        assert!([1, 2, 10, 1000].iter().all(|round| rectification(0.5, *round).is_none()));
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(RAdam::default(), vec![4.0, -4.0]);
        for round in 0..3000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 2000 { 0.05 } else { 0.001 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(RAdam::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
