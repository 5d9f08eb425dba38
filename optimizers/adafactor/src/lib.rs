//! Adafactor: the second moment of a matrix, estimated from the means of its rows and columns alone.
//!
//! Follows "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost" (Shazeer and Stern, ICML 2018,
//! arXiv:1804.04235) in the variant of `optax.adafactor`. Steps are clipped by their root mean square, multiplied by
//! the learning rate and by the root mean square of the parameters, and only then averaged if there is momentum. The
//! weight decay is *not* multiplied by the learning rate. Vectors, and matrices with a side shorter than
//! `minimum_factored_size`, have a second moment for each parameter. A tensor with more than two axes is treated as a
//! matrix whose rows are its first axis and whose columns are all other axes (optax factors its two longest axes).

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

/// Per row if the tensor is factored, otherwise per element.
const VARIANCE: Slot = Slot::zero("variance");
/// Per column if the tensor is factored, otherwise the scalar 1.
const COLUMN_VARIANCE: Slot = Slot::constant("column_variance", 1.0);
/// Per element if there is momentum, otherwise the scalar 0.
const MEAN: Slot = Slot::zero("mean");

const ROW_SQUARES: Accumulator = Accumulator::sum("row_squares").by_row();
const COLUMN_SQUARES: Accumulator = Accumulator::sum("column_squares").by_column();
const DIRECTION: Accumulator = Accumulator::sum_of_squares("direction");
const PARAMETERS: Accumulator = Accumulator::sum_of_squares("parameters").of_parameters();

/// Lower bound of the parameters' root mean square, so that tensors of zeros can move.
const LEAST_SCALE: f64 = 1e-3;

hyperparameters! {
    /// Adafactor (Shazeer and Stern, arXiv:1804.04235), as optax.adafactor computes it.
    pub struct Adafactor {
        /// Length from which on both sides of a matrix make it factored.
        minimum_factored_size: i64 = 128 in 1..,
        /// The second moment keeps 1 - round^-this from round to round.
        decay_exponent: f64 = 0.8 in 0.0..=1.0,
        /// Whether steps are multiplied by the root mean square of the tensor's parameters.
        scale_by_parameter: bool = true,
        /// Largest root mean square of a tensor's step before the learning rate comes to it; 0 for any.
        clipping_threshold: f64 = 1.0 in 0.0..,
        /// Decay of the running mean of steps; 0 for none, and then no memory for it.
        momentum: f64 = 0.0 in 0.0..1.0,
        /// Share of a parameter that is taken away each round, whatever the learning rate.
        weight_decay: f32 = 0.0 in 0.0..,
        /// Added to squared gradients.
        epsilon: f32 = 1e-30 in 1e-30..,
    }
}

/// A pass over the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Sums squared gradients over rows and columns. Only if the tensor is factored.
    Lines,
    /// Completes the second moment and measures the direction.
    Norm,
    /// Steps along the direction.
    Step,
}

/// Values that are the same for all parameters of a tensor in one pass of a round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pass: Pass,
    /// The factors of an element's second moment and of its new square: 1 and 0 if the second moment is not per
    /// element.
    kept: f32,
    new_share: f32,
    /// Scales the second moments of the rows to a mean of 1.
    of_rows: f32,
    rate: f32,
    momentum: f32,
    step_share: f32,
}

impl Round {
    #[inline(always)]
    fn direction(&self, gradient: f32, variance: f32, column_variance: f32) -> f32 {
        // Not the root of the product, which can underflow when its factors do not.
        gradient / ((variance * self.of_rows).sqrt() * column_variance.sqrt())
    }
}

impl Adafactor {
    fn factors(&self, tensor: &Tensor) -> bool {
        let least = self.minimum_factored_size.unsigned_abs();
        tensor.shape.len() >= 2 && tensor.rows() >= least && tensor.columns() >= least
    }

    /// Learning rate times clipping factor and scale, from the sums of squares of the direction and the parameters over
    /// the tensor.
    fn rate(&self, learning_rate: f32, tensor: &Tensor, direction: f64, parameters: f64) -> f64 {
        let root_mean_square = |sum: f64| (sum / tensor.elements() as f64).sqrt();
        let (direction, scale) = (root_mean_square(direction), root_mean_square(parameters));
        let clips = self.clipping_threshold > 0.0 && direction > self.clipping_threshold;
        let clipping = if clips { self.clipping_threshold / direction } else { 1.0 };
        let scale = if scale > LEAST_SCALE { scale } else { LEAST_SCALE };
        f64::from(learning_rate) * clipping * if self.scale_by_parameter { scale } else { 1.0 }
    }
}

/// Updates running means with the sums over lines of `elements` elements each.
fn renew(kept: f64, means: &mut [f32], sums: &[f64], elements: u64) {
    for (mean, sum) in means.iter_mut().zip(sums) {
        *mean = (kept * f64::from(*mean) + (1.0 - kept) * (sum / elements as f64)) as f32;
    }
}

impl Optimizer for Adafactor {
    const NAME: &'static str = "adafactor";
    const LEARNING_RATE: f64 = 0.01;
    type Round = Round;

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        let mean = if self.momentum > 0.0 { MEAN } else { MEAN.scalar() };
        let plan = Plan::new().accumulators(&[PARAMETERS]);
        Ok(if self.factors(tensor) {
            plan.slots(&[VARIANCE.per_row(), COLUMN_VARIANCE.per_column(), mean])
                .accumulators(&[ROW_SQUARES, COLUMN_SQUARES, DIRECTION.contributed_in(1)])
                .phases(&["lines", "norm", "step"])
        } else {
            plan.slots(&[VARIANCE, COLUMN_VARIANCE.scalar(), mean]).accumulators(&[DIRECTION]).phases(&["norm", "step"])
        })
    }

    fn begin(
        &self,
        phase: usize,
        tensor: &Tensor,
        context: &Context,
        shared: &mut Shared<'_>,
    ) -> Result<Round, String> {
        let factored = self.factors(tensor);
        let pass = [Pass::Lines, Pass::Norm, Pass::Step][phase + usize::from(!factored)];
        let kept = 1.0 - math::powf(context.tensor_step as f64, -self.decay_exponent);
        let mut of_rows = 1.0;
        if factored && pass == Pass::Norm {
            let [rows, columns] = shared.slots.write_all::<f32, 2>([VARIANCE, COLUMN_VARIANCE])?;
            renew(kept, rows, shared.combined.values(ROW_SQUARES)?, tensor.columns());
            renew(kept, columns, shared.combined.values(COLUMN_SQUARES)?, tensor.rows());
        }
        if factored && pass != Pass::Lines {
            // The mean of the rows equals the mean of the columns, and every slice has all columns.
            let columns = shared.slots.read::<f32>(COLUMN_VARIANCE)?;
            of_rows = columns.len() as f64 / columns.iter().map(|column| f64::from(*column)).sum::<f64>();
        }
        let mut rate = 0.0;
        if pass == Pass::Step {
            let (direction, parameters) = (shared.combined.number(DIRECTION)?, shared.combined.number(PARAMETERS)?);
            rate = self.rate(context.learning_rate, tensor, direction, parameters);
        }
        let (kept, new_share) = if factored { (1.0, 0.0) } else { (kept, 1.0 - kept) };
        Ok(Round {
            pass,
            kept: kept as f32,
            new_share: new_share as f32,
            of_rows: of_rows as f32,
            rate: rate as f32,
            momentum: self.momentum as f32,
            step_share: (1.0 - self.momentum) as f32,
        })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let (this, round) = (*self, *round);
        let square = |gradient: f32| gradient * gradient + this.epsilon;
        match round.pass {
            Pass::Lines => block.contribute([], [ROW_SQUARES, COLUMN_SQUARES], |_, gradient, []| [square(gradient); 2]),
            Pass::Norm => block.update_contributing(
                [VARIANCE, COLUMN_VARIANCE],
                [DIRECTION],
                |parameter, gradient, [variance, column]| {
                    let variance = round.kept * variance + round.new_share * square(gradient);
                    (parameter, [variance, column], [round.direction(gradient, variance, column)])
                },
            ),
            Pass::Step => {
                block.update([VARIANCE, COLUMN_VARIANCE, MEAN], |parameter, gradient, [variance, column, mean]| {
                    let step = round.rate * round.direction(gradient, variance, column);
                    let mean = round.momentum * mean + round.step_share * step;
                    (parameter - (mean + this.weight_decay * parameter), [variance, column, mean])
                })
            }
        }
    }
}

register!(Adafactor);

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps by learning rate times direction only.
    fn plain(minimum_factored_size: i64) -> Adafactor {
        Adafactor { minimum_factored_size, scale_by_parameter: false, clipping_threshold: 0.0, ..Adafactor::default() }
    }

    fn of_matrix(optimizer: Adafactor, parameters: Vec<f32>) -> Native<Adafactor> {
        Native::of_tensor(optimizer, Tensor::new("matrix", &[2, 3], 1), parameters)
    }

    #[test]
    fn squares_that_are_products_of_row_and_column_are_factored_without_loss() {
        let mut training = of_matrix(plain(2), vec![0.0; 6]);
        training.round(0.1, &[1.0, -2.0, 4.0, 3.0, 6.0, -12.0]);
        let expected = [-0.1, 0.1, -0.1, -0.1, -0.1, 0.1];
        let near = training.parameters().iter().zip(expected).all(|(ours, expected)| (*ours - expected).abs() <= 1e-6);
        assert!(near, "{:?}", training.parameters());
    }

    #[test]
    fn other_squares_are_replaced_by_the_product_of_their_means() {
        let mut training = of_matrix(plain(2), vec![0.0; 6]);
        training.round(1.0, &[1.0, 1.0, 1.0, 1.0, 1.0, 5.0]);
        // Means of the rows 1 and 9, of the columns 1, 1 and 13, and of all elements 5.
        let expected = -5.0 / (9.0_f32 * 13.0 / 5.0).sqrt();
        assert!((training.parameters()[5] - expected).abs() < 1e-6);
        assert_eq!(training.slot("variance"), Some(&[1.0, 9.0][..]));
        assert_eq!(training.slot("column_variance"), Some(&[1.0, 1.0, 13.0][..]));
    }

    #[test]
    fn only_large_matrices_are_factored_and_only_momentum_is_kept_for_each_parameter() {
        let slots = |optimizer: Adafactor, shape: &[u64]| {
            let elements = shape.iter().product::<u64>() as usize;
            let training = Native::of_tensor(optimizer, Tensor::new("t", shape, 1), vec![0.0; elements]);
            ["variance", "column_variance", "mean"].map(|name| training.slot(name).map_or(0, <[f32]>::len))
        };
        assert_eq!(slots(plain(3), &[3, 4]), [3, 4, 1]);
        assert_eq!(slots(plain(3), &[3, 2, 2]), [3, 4, 1]);
        assert_eq!(slots(plain(4), &[3, 4]), [12, 1, 1]);
        assert_eq!(slots(plain(1), &[12]), [12, 1, 1]);
        assert_eq!(slots(Adafactor { momentum: 0.9, ..plain(3) }, &[3, 4]), [3, 4, 12]);
    }

    #[test]
    fn steps_are_clipped_scaled_and_decayed() {
        let clipped = Adafactor { clipping_threshold: 0.5, ..plain(128) };
        let mut training = of_matrix(clipped, vec![0.0; 6]);
        training.round(1.0, &[7.0; 6]);
        assert!(training.parameters().iter().all(|parameter| (parameter + 0.5).abs() < 1e-6));

        let scaled = Adafactor { scale_by_parameter: true, ..plain(128) };
        let mut training = of_matrix(scaled, vec![2.0; 6]);
        training.round(0.1, &[7.0; 6]);
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.8).abs() < 1e-6));

        let decayed = Adafactor { weight_decay: 0.25, ..plain(128) };
        let mut training = of_matrix(decayed, vec![2.0; 6]);
        training.round(0.0, &[7.0; 6]);
        assert_eq!(training.parameters(), [1.5; 6]);
    }

    #[test]
    fn gradients_of_zeros_change_nothing() {
        for minimum in [2, 128] {
            let mut training = of_matrix(plain(minimum), vec![2.0; 6]);
            training.round(1.0, &[0.0; 6]);
            assert_eq!(training.parameters(), [2.0; 6]);
        }
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        for minimum in [2, 128] {
            let optimizer = Adafactor { minimum_factored_size: minimum, momentum: 0.5, ..Adafactor::default() };
            let mut training = of_matrix(optimizer, vec![4.0, -4.0, 2.0, 1.0, 0.0, 3.0]);
            for round in 0..4000 {
                let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
                training.round(0.1 / (1.0 + round as f32 * 0.1), &gradient);
            }
            let near = training.parameters().iter().all(|parameter| (*parameter - 1.0).abs() <= 1e-2);
            assert!(near, "minimum size {minimum}: {:?}", training.parameters());
        }
    }

    #[test]
    fn cuts_change_no_bit() {
        let wave = |factor: f32| (0..13_000).map(|index| (index as f32 * factor).sin()).collect::<Vec<f32>>();
        let train = |minimum: i64, slice: usize, block: usize| {
            let optimizer = Adafactor { minimum_factored_size: minimum, momentum: 0.5, ..Adafactor::default() };
            let tensor = Tensor::new("t", &[200, 65], 1);
            let mut training = Native::of_tensor(optimizer, tensor, wave(0.37)).cut(slice, block);
            (1..4).for_each(|round| training.round(0.1, &wave(round as f32)));
            training.parameters().to_vec()
        };
        for minimum in [10, 1000] {
            let whole = train(minimum, 1 << 20, 1 << 20);
            assert_eq!(train(minimum, 4096, 4096), whole);
            assert_eq!(train(minimum, 8192, 4096), whole);
        }
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(Adafactor::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
