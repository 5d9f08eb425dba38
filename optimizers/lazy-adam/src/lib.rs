//! Lazy Adam: Adam for embeddings that visits only rows that received a gradient.
//!
//! Follows MXNet 1.9.1's `Adam` with `lazy_update` on row-sparse gradients; TensorFlow's `LazyAdam` and torch's
//! `SparseAdam` are essentially the same. Parameters and moments of rows without a gradient do not change, so that the
//! cost of a round is proportional to the rows that it touches. The bias correction counts the tensor's rounds, not the
//! row's, and is applied after epsilon is added (in `adam`, before). Tensors with fewer than two axes have no rows and
//! are visited whole. For Adam itself see "Adam: A Method for Stochastic Optimization" (Kingma and Ba,
//! arXiv:1412.6980).

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

const MEAN: Slot = Slot::zero("mean");
const VARIANCE: Slot = Slot::zero("variance");

hyperparameters! {
    /// Adam on touched rows only, as MXNet 1.9.1 computes it with lazy_update.
    pub struct LazyAdam {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator, before the correction for bias.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Multiple of the parameter that is added to its gradient (L2 penalty), in touched rows.
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
    rate: f32,
}

impl Optimizer for LazyAdam {
    const NAME: &'static str = "lazy-adam";
    const LEARNING_RATE: f64 = 1e-3;
    type Round = Round;

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        let plan = Plan::new().slots(&[MEAN, VARIANCE]);
        Ok(if tensor.shape.len() >= 2 { plan.touched_rows() } else { plan })
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<Round, String> {
        let mean_correction = 1.0 - math::power(self.beta1, context.tensor_step);
        let variance_correction = 1.0 - math::power(self.beta2, context.tensor_step);
        Ok(Round {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            rate: (f64::from(context.learning_rate) * variance_correction.sqrt() / mean_correction) as f32,
        })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let round = *round;
        block.update([MEAN, VARIANCE], |parameter, gradient, [mean, variance]| {
            let gradient = gradient + round.weight_decay * parameter;
            let mean = round.beta1 * mean + round.gradient_share * gradient;
            let variance = round.beta2 * variance + round.square_share * gradient * gradient;
            (parameter - round.rate * mean / (variance.sqrt() + round.epsilon), [mean, variance])
        })
    }
}

register!(LazyAdam);

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(rows: u64, parameters: Vec<f32>) -> Native<LazyAdam> {
        let columns = parameters.len() as u64 / rows;
        Native::of_tensor(LazyAdam::default(), Tensor::new("embedding", &[rows, columns], 1), parameters)
    }

    #[test]
    fn touched_rows_take_a_step_of_the_learning_rate_and_others_stay_to_the_bit() {
        let mut training = embedding(3, vec![1.0; 6]);
        training.round_rows(&Context::of_round(1, 0.1), &[1], &[4.0, -4.0]);
        let [a, b, down, up, c, d] = training.parameters() else { unreachable!() };
        assert_eq!([a, b, c, d], [&1.0; 4]);
        assert!((down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6, "{down} {up}");
        let mean = training.slot("mean").unwrap();
        assert!(mean[0] == 0.0 && mean[2] != 0.0 && mean[4] == 0.0, "{mean:?}");
    }

    #[test]
    fn a_row_that_rests_keeps_its_moments() {
        let mut training = embedding(2, vec![1.0, 1.0]);
        training.round_rows(&Context::of_round(1, 0.1), &[0], &[2.0]);
        let before = (training.parameters()[0], training.slot("mean").unwrap()[0]);
        for round in 2..100 {
            training.round_rows(&Context::of_round(round, 0.1), &[1], &[2.0]);
        }
        assert_eq!((training.parameters()[0], training.slot("mean").unwrap()[0]), before);
    }

    #[test]
    fn weight_decay_leaves_rows_without_gradient_alone() {
        let optimizer = LazyAdam { weight_decay: 0.5, ..LazyAdam::default() };
        let mut training = Native::of_tensor(optimizer, Tensor::new("embedding", &[2, 1], 1), vec![1.0, 1.0]);
        training.round_rows(&Context::of_round(1, 0.1), &[0], &[0.0]);
        assert!(training.parameters()[0] < 1.0);
        assert_eq!(training.parameters()[1], 1.0);
    }

    #[test]
    fn vectors_are_visited_whole() {
        let mut training = Native::new(LazyAdam::default(), vec![1.0, 1.0]);
        training.round(0.1, &[1.0, -1.0]);
        let [down, up] = training.parameters() else { unreachable!() };
        assert!((down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6, "{down} {up}");
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum_row_by_row() {
        let mut training = embedding(4, vec![4.0, -4.0, 2.0, -2.0, 0.0, 1.0, 3.0, -3.0]);
        for round in 1..=4000 {
            let row = round % 4;
            let first = 2 * row as usize;
            let gradient: Vec<f32> = training.parameters()[first..first + 2].iter().map(|value| value - 1.0).collect();
            let rate = if round < 3000 { 0.05 } else { 0.001 };
            training.round_rows(&Context::of_round(round, rate), &[row as u32], &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-2));
    }

    #[test]
    fn cuts_change_no_bit() {
        let wave =
            |factor: f32, count: usize| (0..count).map(|index| (index as f32 * factor).sin()).collect::<Vec<f32>>();
        let train = |slice: usize, block: usize| {
            let tensor = Tensor::new("t", &[200, 65], 1);
            let mut training = Native::of_tensor(LazyAdam::default(), tensor, wave(0.37, 13_000)).cut(slice, block);
            for round in 1..4 {
                let rows: Vec<u32> = (0..200).filter(|row| row % (round + 1) == 0).collect();
                let gradient = wave(round as f32, rows.len() * 65);
                training.round_rows(&Context::of_round(u64::from(round), 0.1), &rows, &gradient);
            }
            training.parameters().to_vec()
        };
        let whole = train(1 << 20, 1 << 20);
        assert_eq!(train(4096, 4096), whole);
        assert_eq!(train(8192, 4096), whole);
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(LazyAdam::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
