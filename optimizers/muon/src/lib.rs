//! Muon: momentum, made orthogonal for matrices before each step.
//!
//! Follows Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024,
//! <https://kellerjordan.github.io/posts/muon/>), in the variant of `optax.contrib.muon`: momentum is a mean corrected
//! for bias, the Newton-Schulz iterations use the coefficients 3.4445, -4.7750, 2.0315 in f32, and weight decay is
//! decoupled. `consistent_rms` scales steps as in Liu et al., "Muon is Scalable for LLM Training" (arXiv:2502.16982).
//! Tensors that are not matrices are stepped by AdamW, so that one optimizer can train a whole model.
//!
//! The iterations are products of large matrices, which the server computes natively.

#![forbid(unsafe_code)]

use stepbox_guest::linear_algebra::{Matrix, multiply};
use stepbox_guest::prelude::*;

hyperparameters! {
    /// Momentum made orthogonal by Newton-Schulz iterations (Jordan et al. 2024), as optax.contrib.muon computes it; AdamW
    /// for tensors that are no matrices.
    pub struct Muon {
        /// Decay of the momentum.
        momentum: f64 = 0.95 in 0.0..1.0,
        /// Whether to step along the momentum as it will be after the next decay (Nesterov).
        nesterov: bool = true,
        /// Newton-Schulz iterations.
        newton_schulz_steps: i64 = 5 in 1..=20,
        /// Added to denominators.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Share of a parameter that a learning rate of 1 would take away each round.
        weight_decay: f64 = 0.0 in 0.0..,
        /// Root mean square that a matrix's step has whatever its shape, times the learning rate (0.2 is usual); 0 for the
        /// factor sqrt(max(1, outputs / inputs)).
        consistent_rms: f32 = 0.0 in 0.0..,
        /// Whether a matrix's rows are outputs, as in torch and MXNet, or its columns, as in flax.
        rows_are_outputs: bool = true,
        /// For tensors that are no matrices: decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// For tensors that are no matrices: decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
    }
}

const MOMENTUM: Slot = Slot::zero("momentum");
const MEAN: Slot = Slot::zero("mean");
const VARIANCE: Slot = Slot::zero("variance");

/// A decayed mean with bias correction: `mean = kept * mean + taken * new`; divide it by `correction`.
#[derive(Debug, Clone, Copy)]
struct Decay {
    kept: f32,
    taken: f32,
    correction: f64,
}

impl Decay {
    fn new(beta: f64, step: u64) -> Self {
        Self { kept: beta as f32, taken: (1.0 - beta) as f32, correction: 1.0 - math::power(beta, step) }
    }

    #[inline(always)]
    fn mean(&self, mean: f32, new: f32) -> f32 {
        self.kept * mean + self.taken * new
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    rate: f32,
    decay: f32,
    momentum: Decay,
    /// The direction of a matrix is `of_momentum * momentum + of_gradient * gradient`.
    of_momentum: f32,
    of_gradient: f32,
    mean: Decay,
    variance: Decay,
}

impl Muon {
    /// A matrix with the singular vectors of `direction` and singular values that are all about 1.
    fn orthogonal(&self, direction: Vec<f32>, rows: usize, columns: usize) -> Result<Matrix, String> {
        const A: f32 = 3.4445;
        const B: f32 = -4.7750;
        const C: f32 = 2.0315;
        let scale = 1.0 / (statistics::sum_of_squares(&direction).sqrt() as f32 + self.epsilon);
        let mut x = Matrix::from_values(direction, rows, columns)?;
        x.values_mut().iter_mut().for_each(|value| *value *= scale);

        // X becomes A X + (B S + C S²) X with S = X Xᵀ or, if it is smaller, A X + X (B S + C S²) with S = Xᵀ X.
        let wide = rows <= columns;
        let side = rows.min(columns);
        let (mut square, mut polynomial) = (Matrix::zeros(side, side), Matrix::zeros(side, side));
        let mut next = Matrix::zeros(rows, columns);
        for _ in 0..self.newton_schulz_steps {
            let (left, right) = if wide { (x.matrix(), x.transposed()) } else { (x.transposed(), x.matrix()) };
            multiply(1.0, left, right, 0.0, &mut square.matrix_mut())?;
            polynomial.values_mut().copy_from_slice(square.values());
            multiply(C, square.matrix(), square.matrix(), B, &mut polynomial.matrix_mut())?;
            next.values_mut().copy_from_slice(x.values());
            let (left, right) = if wide { (&polynomial, &x) } else { (&x, &polynomial) };
            multiply(1.0, left.matrix(), right.matrix(), A, &mut next.matrix_mut())?;
            std::mem::swap(&mut x, &mut next);
        }
        Ok(x)
    }

    fn scale(&self, rows: f32, columns: f32) -> f32 {
        let (outputs, inputs) = if self.rows_are_outputs { (rows, columns) } else { (columns, rows) };
        if self.consistent_rms > 0.0 {
            self.consistent_rms * rows.max(columns).sqrt()
        } else {
            (outputs / inputs).max(1.0).sqrt()
        }
    }
}

impl Optimizer for Muon {
    const NAME: &'static str = "muon";
    const LEARNING_RATE: f64 = 0.02;
    type Round = Round;

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        if tensor.shape.len() != 2 {
            return Ok(Plan::new().slots(&[MEAN, VARIANCE]));
        }
        let side = tensor.rows().min(tensor.columns());
        let work = 2 * (tensor.elements() + side * side) * size_of::<f32>() as u64;
        Ok(Plan::new().slots(&[MOMENTUM]).whole_tensor(work))
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<Round, String> {
        let step = context.tensor_step;
        let momentum = Decay::new(self.momentum, step);
        let (of_momentum, of_gradient) = if self.nesterov {
            let next = Decay::new(self.momentum, step + 1);
            (self.momentum / next.correction, (1.0 - self.momentum) / momentum.correction)
        } else {
            (1.0 / momentum.correction, 0.0)
        };
        Ok(Round {
            rate: context.learning_rate,
            decay: (f64::from(context.learning_rate) * self.weight_decay) as f32,
            momentum,
            of_momentum: of_momentum as f32,
            of_gradient: of_gradient as f32,
            mean: Decay::new(self.beta1, step),
            variance: Decay::new(self.beta2, step),
        })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let (round, epsilon) = (*round, self.epsilon);
        let [rows, columns] = block.tensor().shape[..] else {
            let rate = (f64::from(round.rate) / round.mean.correction) as f32;
            let root_correction = round.variance.correction.sqrt() as f32;
            return block.update([MEAN, VARIANCE], |parameter, gradient, [mean, variance]| {
                let mean = round.mean.mean(mean, gradient);
                let variance = round.variance.mean(variance, gradient * gradient);
                let step = rate * mean / (variance.sqrt() / root_correction + epsilon);
                (parameter - (round.decay * parameter + step), [mean, variance])
            });
        };
        block.update([MOMENTUM], |parameter, gradient, [momentum]| {
            (parameter, [round.momentum.mean(momentum, gradient)])
        })?;
        let momentum = block.slots.read::<f32>(MOMENTUM)?.iter();
        let direction = momentum.zip(block.gradient).map(|(m, g)| round.of_momentum * m + round.of_gradient * g);
        let step = self.orthogonal(direction.collect(), rows as usize, columns as usize)?;
        let rate = round.rate * self.scale(rows as f32, columns as f32);
        for (parameter, step) in block.parameters.iter_mut().zip(step.values()) {
            *parameter -= round.decay * *parameter + rate * step;
        }
        Ok(())
    }
}

register!(Muon);

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: usize = 20;
    const COLUMNS: usize = 30;

    fn noise() -> Vec<f32> {
        let mut noise = vec![0.0; ROWS * COLUMNS];
        Context::default().random(&Tensor::default()).fill_normal(0, &mut noise);
        noise
    }

    fn trained(muon: Muon, shape: [usize; 2], gradient: &[f32]) -> Vec<f32> {
        let tensor = Tensor::new("matrix", &shape.map(|extent| extent as u64), 1);
        let mut training = Native::of_tensor(muon, tensor, vec![0.0; gradient.len()]);
        training.round(1.0, gradient);
        training.parameters().to_vec()
    }

    /// The product of a matrix, given by its rows, with its transpose.
    fn gram(values: &[f32], columns: usize) -> Matrix {
        let rows = values.len() / columns;
        let matrix = Matrix::from_values(values.to_vec(), rows, columns).unwrap();
        let mut gram = Matrix::zeros(rows, rows);
        multiply(1.0, matrix.matrix(), matrix.transposed(), 0.0, &mut gram.matrix_mut()).unwrap();
        gram
    }

    #[test]
    fn a_step_is_nearly_orthogonal_whatever_the_gradients_scale() {
        let gradient = noise();
        for scale in [1.0, 1e-3, 1e3] {
            let scaled: Vec<f32> = gradient.iter().map(|value| value * scale).collect();
            let step = trained(Muon { newton_schulz_steps: 12, ..Muon::default() }, [ROWS, COLUMNS], &scaled);
            let gram = gram(&step, COLUMNS);
            // These coefficients trade accuracy for speed: singular values end up between 0.7 and 1.2.
            for row in 0..ROWS {
                let length = gram.matrix().at(row, row);
                assert!((0.4..1.5).contains(&length), "{length}");
                let off: f32 =
                    (0..ROWS).filter(|other| *other != row).map(|other| gram.matrix().at(row, other).abs()).sum();
                assert!(off < 1.5, "{off}");
            }
        }
    }

    #[test]
    fn a_step_points_against_the_gradient_and_the_transposed_gradient_gives_the_transposed_step() {
        let gradient = noise();
        let transposed: Vec<f32> =
            (0..ROWS * COLUMNS).map(|index| gradient[index % ROWS * COLUMNS + index / ROWS]).collect();
        let muon = Muon { consistent_rms: 0.2, ..Muon::default() };
        let (step, other) = (trained(muon, [ROWS, COLUMNS], &gradient), trained(muon, [COLUMNS, ROWS], &transposed));
        assert!(step.iter().zip(&gradient).map(|(step, gradient)| step * gradient).sum::<f32>() < 0.0);
        for index in 0..ROWS * COLUMNS {
            assert!((other[index] - step[index % ROWS * COLUMNS + index / ROWS]).abs() < 1e-5);
        }
    }

    #[test]
    fn the_scale_follows_the_shape() {
        let default = Muon::default();
        assert_eq!((default.scale(8.0, 2.0), default.scale(2.0, 8.0)), (2.0, 1.0));
        let flax = Muon { rows_are_outputs: false, ..default };
        assert_eq!((flax.scale(8.0, 2.0), flax.scale(2.0, 8.0)), (1.0, 2.0));
        assert_eq!(Muon { consistent_rms: 0.5, ..default }.scale(4.0, 16.0), 2.0);
    }

    #[test]
    fn vectors_are_stepped_by_adamw() {
        let muon = Muon { weight_decay: 0.1, ..Muon::default() };
        let mut training = Native::new(muon, vec![1.0, -1.0]);
        training.round(0.01, &[3.0, 1e-3]);
        let expected = [1.0 - 0.01 * 1.1, -1.0 - 0.01 * 0.9];
        assert!(training.parameters().iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-6));
        assert!(training.slot("momentum").is_none() && training.slot("variance").is_some());
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(Muon::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
