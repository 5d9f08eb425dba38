//! LARS: momentum whose steps are proportional to the norm of the tensor that they update.
//!
//! Follows "Large Batch Training of Convolutional Networks" (You, Gitman and Ginsburg, arXiv:1708.03888) in the variant
//! of `optax.lars`: the ratio divides by the norm of the gradient including its decay (the paper uses the sum of two
//! norms), the velocity includes the learning rate, and the ratio is 1 for tensors or gradients of norm zero. Norms are
//! computed over the whole tensor, however it is cut. The ratio is meant for matrices and kernels: put biases and the
//! parameters of normalization layers into a group with `trust_ratio = false`, which steps them by momentum alone.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

const VELOCITY: Slot = Slot::zero("velocity");
const PARAMETERS: Accumulator = Accumulator::sum_of_squares("parameters").of_parameters().read_from(1);
const DIRECTION: Accumulator = Accumulator::sum_of_squares("direction");

/// Phase 0 measures the direction, phase 1 moves along it.
const PHASES: [&str; 2] = ["norm", "step"];

hyperparameters! {
    /// LARS (You, Gitman and Ginsburg, arXiv:1708.03888), as optax.lars computes it.
    pub struct Lars {
        /// Share of the velocity that is kept from round to round.
        momentum: f32 = 0.9 in 0.0..1.0,
        /// Whether to step along the velocity as it will be after the next decay (Nesterov).
        nesterov: bool = false,
        /// Multiple of the parameter that is added to its gradient (L2 penalty).
        weight_decay: f32 = 0.0 in 0.0..,
        /// Length of a step of learning rate 1, as a share of the tensor's norm.
        trust_coefficient: f64 = 0.001 in 0.0..,
        /// Whether steps are in proportion to the tensor's norm. Without, the ratio is 1: for biases and norms.
        trust_ratio: bool = true,
        /// Added to the norm that is divided by; 0 will do, since a norm of 0 has the ratio 1.
        epsilon: f64 = 0.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one phase of a round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    weight_decay: f32,
    momentum: f32,
    /// Learning rate times trust ratio; 0 while the norm is being measured.
    rate: f32,
    /// The step is `of_velocity × velocity + of_direction × direction`.
    of_velocity: f32,
    of_direction: f32,
}

impl Lars {
    fn trust_ratio(&self, parameters: f64, direction: f64) -> f64 {
        if !self.trust_ratio || parameters == 0.0 || direction == 0.0 {
            return 1.0;
        }
        self.trust_coefficient * parameters / (direction + self.epsilon)
    }
}

impl Optimizer for Lars {
    const NAME: &'static str = "lars";
    const LEARNING_RATE: f64 = 0.1;
    type Round = Round;

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new().slots(&[VELOCITY]).accumulators(&[PARAMETERS, DIRECTION]).phases(&PHASES))
    }

    fn begin(&self, phase: usize, _: &Tensor, context: &Context, shared: &mut Shared<'_>) -> Result<Round, String> {
        let mut rate = 0.0;
        if phase == 1 {
            let parameters = shared.combined.number(PARAMETERS)?.sqrt();
            let direction = shared.combined.number(DIRECTION)?.sqrt();
            rate = f64::from(context.learning_rate) * self.trust_ratio(parameters, direction);
        }
        let (of_velocity, of_direction) = if self.nesterov { (self.momentum, 1.0) } else { (1.0, 0.0) };
        Ok(Round {
            weight_decay: self.weight_decay,
            momentum: self.momentum,
            rate: rate as f32,
            of_velocity,
            of_direction,
        })
    }

    fn step(&self, round: &Round, phase: usize, block: &mut Block<'_>) -> Result<(), String> {
        let round = *round;
        if phase == 0 {
            return block
                .contribute([], [DIRECTION], |parameter, gradient, []| [gradient + round.weight_decay * parameter]);
        }
        block.update([VELOCITY], |parameter, gradient, [velocity]| {
            let direction = round.rate * (gradient + round.weight_decay * parameter);
            let velocity = round.momentum * velocity + direction;
            (parameter - (round.of_velocity * velocity + round.of_direction * direction), [velocity])
        })
    }
}

register!(Lars);

#[cfg(test)]
mod tests {
    use super::*;

    fn length(values: &[f32]) -> f64 {
        statistics::sum_of_squares(values).sqrt()
    }

    fn moved(training: &Native<Lars>, from: &[f32]) -> Vec<f32> {
        training.parameters().iter().zip(from).map(|(new, old)| new - old).collect()
    }

    #[test]
    fn the_first_step_is_a_share_of_the_parameters_norm_against_the_gradient() {
        let parameters = [3.0, 0.0, 4.0];
        for scale in [1e-6, 1.0, 1e6] {
            let mut training = Native::new(Lars { trust_coefficient: 0.01, ..Lars::default() }, parameters.to_vec());
            training.round(0.5, &[0.0, -2.0 * scale, 0.0]);
            let step = moved(&training, &parameters);
            assert!(step[0] == 0.0 && step[2] == 0.0 && (step[1] - 0.5 * 0.01 * 5.0).abs() < 1e-7, "{step:?}");
        }
    }

    #[test]
    fn the_norm_is_of_the_gradient_with_its_decay() {
        let parameters = [3.0, 4.0];
        let mut training =
            Native::new(Lars { weight_decay: 0.5, trust_coefficient: 0.1, ..Lars::default() }, parameters.to_vec());
        // The direction is (1.5 + 2.5, 2 - 2) = (4, 0): the step is 0.1 × 5 along it.
        training.round(1.0, &[2.5, -2.0]);
        let step = moved(&training, &parameters);
        assert!((step[0] + 0.5).abs() < 1e-6 && step[1] == 0.0, "{step:?}");
    }

    #[test]
    fn tensors_of_zeros_step_without_a_ratio() {
        let mut training = Native::new(Lars::default(), vec![0.0, 0.0]);
        training.round(0.5, &[1.0, -2.0]);
        assert_eq!(training.parameters(), [-0.5, 1.0]);
        training.round(0.5, &[0.0, 0.0]);
        assert!(training.parameters().iter().all(|parameter| parameter.is_finite()));
    }

    #[test]
    fn without_trust_ratio_steps_are_of_the_learning_rate() {
        let mut training = Native::new(Lars { trust_ratio: false, ..Lars::default() }, vec![3.0, 4.0]);
        training.round(0.5, &[1.0, -2.0]);
        assert_eq!(training.parameters(), [2.5, 5.0]);
    }

    #[test]
    fn the_velocity_keeps_the_learning_rate_and_nesterov_looks_ahead() {
        let first_and_second = |nesterov| {
            let lars = Lars { momentum: 0.5, nesterov, trust_coefficient: 1.0, ..Lars::default() };
            let mut training = Native::new(lars, vec![1.0, 0.0]);
            training.round(0.5, &[0.0, 1.0]);
            let first = training.parameters()[1];
            training.round(0.0, &[0.0, 1.0]);
            (first, training.parameters()[1] - first)
        };
        assert_eq!(first_and_second(false), (-0.5, -0.25));
        assert_eq!(first_and_second(true), (-0.75, -0.125));
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let lars = Lars { trust_coefficient: 0.1, ..Lars::default() };
        let mut training = Native::new(lars, vec![4.0, -4.0]);
        for round in 0..2000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(0.1 / (1.0 + round as f32 * 0.1), &gradient);
        }
        assert!(length(&moved(&training, &[1.0, 1.0])) < 1e-2, "{:?}", training.parameters());
    }

    #[test]
    fn cuts_change_no_bit() {
        let wave = |factor: f32| (0..13_000).map(|index| (index as f32 * factor).sin()).collect::<Vec<f32>>();
        let train = |slice: usize, block: usize| {
            let lars = Lars { weight_decay: 0.1, ..Lars::default() };
            let mut training = Native::of_tensor(lars, Tensor::new("t", &[200, 65], 1), wave(0.37)).cut(slice, block);
            (1..4).for_each(|round| training.round(0.1, &wave(round as f32)));
            training.parameters().to_vec()
        };
        let whole = train(1 << 20, 1 << 20);
        assert_eq!(train(4096, 4096), whole);
        assert_eq!(train(8192, 4096), whole);
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(Lars::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
