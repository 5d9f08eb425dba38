//! SOAP: Adam in the eigenbasis of Shampoo's preconditioners.
//!
//! Follows "SOAP: Improving and Stabilizing Shampoo using Adam" (Vyas et al., ICLR 2025, arXiv:2409.11321), algorithm
//! 3, in the variant of the authors' code. The statistics of both sides are running means. The first gradient
//! initializes the bases and does not move parameters. Every `precondition_frequency` rounds, the bases are sorted by
//! eigenvalue and updated by a step of power iteration and a QR decomposition. The momentum stays in the axes of the
//! parameters. The second moment is in the basis: its rows and columns move with the basis vectors. Epsilon is added
//! after the bias corrections, as in `adamw`; the decay is decoupled. If the root of an element's second moment is less
//! than 3e-6 of its norm over the matrix, the element does not step: the value may be rounding error of the rotation
//! where there is no gradient at all, and Adam would amplify it to full steps.
//!
//! A tensor with more than two axes is treated as a matrix whose rows are its first axis and whose columns are all
//! other axes. Vectors, and matrices with a side longer than `largest_side`, are stepped by AdamW. Decompositions are
//! computed in the component, so this optimizer is for small matrices.

#![forbid(unsafe_code)]

use stepbox_guest::linear_algebra::nalgebra::{DMatrix, SymmetricEigen};
use stepbox_guest::linear_algebra::{Matrix, MatrixMut, MatrixRef, multiply};
use stepbox_guest::prelude::*;

hyperparameters! {
    /// Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al., arXiv:2409.11321); AdamW for vectors and long
    /// matrices.
    pub struct Soap {
        /// Decay of the running mean of gradients.
        beta1: f32 = 0.95 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta2: f32 = 0.95 in 0.0..1.0,
        /// Decay of the preconditioners.
        shampoo_beta: f32 = 0.95 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Share of a parameter that a learning rate of 1 would take away each round.
        weight_decay: f32 = 0.01 in 0.0..,
        /// Rounds from one QR decomposition of the bases to the next.
        precondition_frequency: i64 = 10 in 1..,
        /// Longest side of a matrix that is preconditioned. Both sides' squares are kept twice.
        largest_side: i64 = 512 in 1..=4096,
    }
}

const MEAN: Slot = Slot::zero("mean");
const VARIANCE: Slot = Slot::zero("variance");
const LEFT: Slot = Slot::zero("left");
const RIGHT: Slot = Slot::zero("right");
const LEFT_BASIS: Slot = Slot::zero("left_basis");
const RIGHT_BASIS: Slot = Slot::zero("right_basis");

/// Limit of the sweeps for each eigenvalue. Two are typical.
const MOST_SWEEPS: usize = 30;

/// Least significant root of the variance, relative to its norm over the matrix: the rotation into the basis may leave
/// this much in directions in which the gradient has no component.
const ROUNDING: f64 = 3e-6;

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    rate: f32,
    decay: f32,
    mean_correction: f32,
    root_correction: f32,
    makes_bases: bool,
    renews_bases: bool,
}

impl Soap {
    fn is_preconditioned(&self, tensor: &Tensor) -> bool {
        tensor.shape.len() > 1 && tensor.rows().max(tensor.columns()) <= self.largest_side as u64
    }

    /// Returns the new variance, and the step before multiplication by the learning rate: 0 if the root of the variance
    /// is less than `rounding`.
    #[inline(always)]
    fn adam(&self, round: &Round, rounding: f32, mean: f32, gradient: f32, variance: f32) -> (f32, f32) {
        let variance = self.beta2 * variance + (1.0 - self.beta2) * gradient * gradient;
        let root = variance.sqrt();
        let step = mean / round.mean_correction / (root / round.root_correction + self.epsilon);
        (variance, if root >= rounding { step } else { 0.0 })
    }
}

/// Computes the eigenvectors of a symmetric matrix, as columns. Decompositions use `f64`: in `f32` the squares of
/// entries much smaller than the largest would underflow.
fn eigenvectors(statistic: &[f32], basis: &mut [f32], side: usize) -> Result<(), String> {
    let statistic = MatrixRef::new(statistic, side, side)?.to_nalgebra().map(f64::from);
    let eigen = SymmetricEigen::try_new(statistic, f64::EPSILON, MOST_SWEEPS * side)
        .ok_or_else(|| format!("the eigenvectors of a {side} x {side} matrix are not found: lower largest_side"))?;
    write(&eigen.eigenvectors, basis);
    Ok(())
}

/// Updates a basis of eigenvectors by a step of power iteration. Returns the old position of each new eigenvector.
fn renew(statistic: &[f32], basis: &mut [f32], side: usize) -> Result<Vec<usize>, String> {
    let old = MatrixRef::new(basis, side, side)?;
    let grown = product(MatrixRef::new(statistic, side, side)?, old)?;
    let eigenvalue = |column: usize| (0..side).map(|row| old.at(row, column) * grown.matrix().at(row, column)).sum();
    let eigenvalues: Vec<f32> = (0..side).map(eigenvalue).collect();
    let mut order: Vec<usize> = (0..side).collect();
    order.sort_by(|one, other| eigenvalues[*other].total_cmp(&eigenvalues[*one]));
    let sorted = DMatrix::from_fn(side, side, |row, column| f64::from(grown.matrix().at(row, order[column])));
    write(&sorted.qr().q(), basis);
    Ok(order)
}

/// Writes a matrix of `nalgebra`, which is in column-major order, in row-major order.
fn write(matrix: &DMatrix<f64>, values: &mut [f32]) {
    for (row, values) in matrix.row_iter().zip(values.chunks_mut(matrix.ncols())) {
        values.iter_mut().zip(row.iter()).for_each(|(value, exact)| *value = *exact as f32);
    }
}

fn product(left: MatrixRef<'_>, right: MatrixRef<'_>) -> Result<Matrix, String> {
    let mut product = Matrix::zeros(left.rows(), right.columns());
    multiply(1.0, left, right, 0.0, &mut product.matrix_mut())?;
    Ok(product)
}

impl Optimizer for Soap {
    const NAME: &'static str = "soap";
    const LEARNING_RATE: f64 = 3e-3;
    type Round = Round;

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        if !self.is_preconditioned(tensor) {
            return Ok(Plan::new().slots(&[MEAN, VARIANCE]));
        }
        let (rows, columns) = (tensor.rows(), tensor.columns());
        // Gradient and momentum in the basis, with an intermediate product; a decomposition needs four matrices of f64.
        let work = (4 * tensor.elements() + 8 * rows.max(columns).pow(2)) * size_of::<f32>() as u64;
        let [left, left_basis] = [LEFT, LEFT_BASIS].map(|slot| slot.matrix(rows, rows));
        let [right, right_basis] = [RIGHT, RIGHT_BASIS].map(|slot| slot.matrix(columns, columns));
        Ok(Plan::new().slots(&[MEAN, VARIANCE, left, right, left_basis, right_basis]).whole_tensor(work))
    }

    fn begin(&self, _: usize, tensor: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<Round, String> {
        let round = context.tensor_step;
        // The moments of a matrix do not include the first gradient.
        let seen = if self.is_preconditioned(tensor) { round - 1 } else { round };
        let correction = |beta: f32| 1.0 - math::power(f64::from(beta), seen);
        Ok(Round {
            rate: context.learning_rate,
            decay: context.learning_rate * self.weight_decay,
            mean_correction: correction(self.beta1) as f32,
            root_correction: correction(self.beta2).sqrt() as f32,
            makes_bases: round == 1,
            // As in the authors' code, the round that makes the bases does not count.
            renews_bases: (round - 1).is_multiple_of(self.precondition_frequency as u64),
        })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let (soap, round) = (*self, *round);
        if !self.is_preconditioned(block.tensor()) {
            return block.update([MEAN, VARIANCE], |parameter, gradient, [mean, variance]| {
                let mean = soap.beta1 * mean + (1.0 - soap.beta1) * gradient;
                let (variance, step) = soap.adam(&round, 0.0, mean, gradient, variance);
                (parameter - (round.decay * parameter + round.rate * step), [mean, variance])
            });
        }
        let (rows, columns) = (block.tensor().rows() as usize, block.tensor().columns() as usize);
        let gradient = MatrixRef::new(block.gradient, rows, columns)?;
        let [mean, variance, left, right, left_basis, right_basis] =
            block.slots.write_all([MEAN, VARIANCE, LEFT, RIGHT, LEFT_BASIS, RIGHT_BASIS])?;

        if !round.makes_bases {
            let to_left = MatrixRef::new(left_basis, rows, rows)?;
            let to_right = MatrixRef::new(right_basis, columns, columns)?;
            let rotated = |matrix| product(product(to_left.transposed(), matrix)?.matrix(), to_right);
            for (mean, gradient) in mean.iter_mut().zip(block.gradient) {
                *mean = self.beta1 * *mean + (1.0 - self.beta1) * gradient;
            }
            let before: f64 = variance.iter().map(|variance| f64::from(*variance)).sum();
            let now = statistics::sum_of_squares(block.gradient);
            let rounding = ROUNDING * (f64::from(self.beta2) * before + f64::from(1.0 - self.beta2) * now).sqrt();
            let gradient = rotated(gradient)?;
            let mut step = rotated(MatrixRef::new(mean, rows, columns)?)?;
            for ((step, gradient), variance) in step.values_mut().iter_mut().zip(gradient.values()).zip(&mut *variance)
            {
                (*variance, *step) = self.adam(&round, rounding as f32, *step, *gradient, *variance);
            }
            let step = product(product(to_left, step.matrix())?.matrix(), to_right.transposed())?;
            for (parameter, step) in block.parameters.iter_mut().zip(step.values()) {
                *parameter -= round.decay * *parameter + round.rate * step;
            }
        }

        let (kept, new) = (self.shampoo_beta, 1.0 - self.shampoo_beta);
        multiply(new, gradient, gradient.transposed(), kept, &mut MatrixMut::new(left, rows, rows)?)?;
        multiply(new, gradient.transposed(), gradient, kept, &mut MatrixMut::new(right, columns, columns)?)?;
        if round.makes_bases {
            eigenvectors(left, left_basis, rows)?;
            eigenvectors(right, right_basis, columns)?;
        } else if round.renews_bases {
            let (row_order, column_order) = (renew(left, left_basis, rows)?, renew(right, right_basis, columns)?);
            let old = variance.to_vec();
            for (variance, old_row) in variance.chunks_mut(columns).zip(row_order) {
                for (variance, old_column) in variance.iter_mut().zip(&column_order) {
                    *variance = old[old_row * columns + old_column];
                }
            }
        }
        Ok(())
    }
}

register!(Soap);

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: usize = 12;
    const COLUMNS: usize = 9;

    fn tensor(rows: usize, columns: usize) -> Tensor {
        Tensor::new("m", &[rows as u64, columns as u64], 1)
    }

    /// Made-up numbers that form a matrix of full rank.
    fn noise(elements: usize, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; elements];
        Context { seed, ..Context::of_round(1, 0.0) }.random(&tensor(1, 1)).fill_normal(0, &mut values);
        values
    }

    /// The largest absolute element of the difference between the identity and the product of the basis with its
    /// transpose.
    fn miss(basis: &[f32], side: usize) -> f32 {
        let basis = MatrixRef::new(basis, side, side).unwrap();
        let square = product(basis.transposed(), basis).unwrap();
        let missed = |(index, value): (usize, &f32)| (value - f32::from(index % (side + 1) == 0)).abs();
        square.values().iter().enumerate().map(missed).fold(0.0, f32::max)
    }

    fn largest_difference(one: &[f32], other: &[f32]) -> f32 {
        one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn the_first_gradient_makes_the_bases_and_moves_nothing() {
        let mut training = Native::of_tensor(Soap::default(), tensor(ROWS, COLUMNS), noise(ROWS * COLUMNS, 1));
        training.round(0.1, &noise(ROWS * COLUMNS, 2));
        assert_eq!(training.parameters(), noise(ROWS * COLUMNS, 1));
        assert!(miss(training.slot("left_basis").unwrap(), ROWS) < 1e-5);
    }

    #[test]
    fn bases_are_renewed_as_many_rounds_after_the_first_as_the_frequency_says() {
        let soap = Soap { precondition_frequency: 3, ..Soap::default() };
        let mut training = Native::of_tensor(soap, tensor(ROWS, COLUMNS), noise(ROWS * COLUMNS, 1));
        let mut bases = Vec::new();
        for round in 1..=7 {
            training.round(0.01, &noise(ROWS * COLUMNS, round + 1));
            bases.push(training.slot("left_basis").unwrap().to_vec());
        }
        let renewed: Vec<usize> =
            (1..7).filter(|index| bases[*index] != bases[index - 1]).map(|index| index + 1).collect();
        assert_eq!(renewed, [4, 7]);
    }

    #[test]
    fn small_directions_are_not_damped() {
        // Along the axes and of very different sizes, as Adam sees them from the second round on.
        let sizes = [1.0, 1e-2, 1e-4];
        let mut gradient = vec![0.0; 9];
        gradient.iter_mut().step_by(4).zip(sizes).for_each(|(value, size)| *value = size);
        let soap = Soap { weight_decay: 0.0, epsilon: 1e-30, ..Soap::default() };
        let mut training = Native::of_tensor(soap, tensor(3, 3), vec![0.0; 9]);
        (0..2).for_each(|_| training.round(0.01, &gradient));
        for step in training.parameters().iter().step_by(4) {
            assert!((step + 0.01).abs() < 1e-6, "{:?}", training.parameters());
        }
    }

    #[test]
    fn rotating_the_parameters_space_rotates_the_trajectory() {
        // Square: if the statistic of a side is singular, its eigenvectors are not unique.
        let rotation = |seed| {
            let orthogonal = DMatrix::from_vec(ROWS, ROWS, noise(ROWS * ROWS, seed)).qr().q();
            Matrix::from_values(orthogonal.as_slice().to_vec(), ROWS, ROWS).unwrap()
        };
        let (left, right) = (rotation(1), rotation(2));
        let rotated = |values: &[f32]| {
            let matrix = MatrixRef::new(values, ROWS, ROWS).unwrap();
            product(product(left.matrix(), matrix).unwrap().matrix(), right.matrix()).unwrap().values().to_vec()
        };
        let first = noise(ROWS * ROWS, 3);
        let mut plain = Native::of_tensor(Soap::default(), tensor(ROWS, ROWS), first.clone());
        let mut turned = Native::of_tensor(Soap::default(), tensor(ROWS, ROWS), rotated(&first));
        for round in 1..60 {
            let gradient = noise(ROWS * ROWS, 10 + round);
            plain.round(0.01, &gradient);
            turned.round(0.01, &rotated(&gradient));
        }
        let moved = largest_difference(&first, plain.parameters());
        let difference = largest_difference(&rotated(plain.parameters()), turned.parameters());
        assert!(difference < 1e-3 * moved, "{difference} of {moved}");
    }

    #[test]
    fn bases_stay_orthogonal_and_become_eigenvectors() {
        let soap = Soap { precondition_frequency: 1, shampoo_beta: 0.0, ..Soap::default() };
        let mut training = Native::of_tensor(soap, tensor(ROWS, COLUMNS), noise(ROWS * COLUMNS, 1));
        training.round(0.01, &noise(ROWS * COLUMNS, 2));
        // Its singular values are well separated.
        let mut gradient = noise(ROWS * COLUMNS, 3);
        gradient.iter_mut().for_each(|value| *value *= 0.1);
        gradient.iter_mut().step_by(COLUMNS + 1).zip(1_u8..).for_each(|(value, addend)| *value += f32::from(addend));
        (0..300).for_each(|_| training.round(0.01, &gradient));
        let basis = training.slot("right_basis").unwrap();
        assert!(miss(basis, COLUMNS) < 1e-5 && miss(training.slot("left_basis").unwrap(), ROWS) < 1e-5);
        let basis = MatrixRef::new(basis, COLUMNS, COLUMNS).unwrap();
        let statistic = MatrixRef::new(training.slot("right").unwrap(), COLUMNS, COLUMNS).unwrap();
        let diagonal = product(product(basis.transposed(), statistic).unwrap().matrix(), basis).unwrap();
        for (index, value) in diagonal.values().iter().enumerate() {
            assert!(index % (COLUMNS + 1) == 0 || value.abs() < 1e-3, "{:?}", diagonal.values());
        }
        let eigenvalues: Vec<f32> = diagonal.values().iter().step_by(COLUMNS + 1).copied().collect();
        assert!(eigenvalues.is_sorted_by(|one, other| one > other), "{eigenvalues:?}");
    }

    #[test]
    fn vectors_and_long_matrices_are_stepped_by_adamw() {
        let train = |shape: &[u64], soap: Soap| {
            let mut training = Native::of_tensor(soap, Tensor::new("t", shape, 1), vec![1.0; 27]);
            training.round(0.1, &noise(27, 1));
            training.parameters().to_vec()
        };
        let vector = train(&[27], Soap::default());
        assert_eq!(train(&[9, 3], Soap { largest_side: 8, ..Soap::default() }), vector);
        let expected: Vec<f32> = noise(27, 1).iter().map(|gradient| 1.0 - 0.1 * (gradient.signum() + 0.01)).collect();
        assert!(largest_difference(&expected, &vector) < 1e-5);
    }

    #[test]
    fn where_there_is_no_gradient_there_is_no_step() {
        let (column, row) = (noise(ROWS, 1), noise(COLUMNS, 2));
        for scale in [0.0, 1e-15, 1.0, 1e9] {
            let soap = Soap { weight_decay: 0.0, ..Soap::default() };
            let mut training = Native::of_tensor(soap, tensor(ROWS, COLUMNS), vec![0.0; ROWS * COLUMNS]);
            // A gradient of rank 1.
            let gradient: Vec<f32> = column.iter().flat_map(|c| row.iter().map(move |r| scale * c * r)).collect();
            (0..41).for_each(|_| training.round(0.01, &gradient));
            assert!(miss(training.slot("left_basis").unwrap(), ROWS) < 1e-5, "{scale}");
            let norm = |values: &[f32]| statistics::sum_of_squares(values).sqrt();
            let along: f32 = gradient.iter().zip(training.parameters()).map(|(g, p)| g * p).sum();
            let along = -f64::from(along) / norm(&gradient).max(1e-300);
            assert!(
                norm(training.parameters()) <= 1.01 * along,
                "{scale}: {} for {along}",
                norm(training.parameters())
            );
            assert!(scale < 1.0 || (0.399..0.401).contains(&along), "{scale}: {along}");
        }
    }

    #[test]
    fn features_that_hardly_occur_are_no_trouble() {
        const SIDE: usize = 96;
        let size = |index: usize| [1.0, 0.0, 1e-20, 1e-5, 1.0][index % 5];
        let sized = |seed| noise(SIDE, seed).iter().enumerate().map(|(index, value)| value * size(index)).collect();
        for ranks in [1, 3] {
            let mut training = Native::of_tensor(Soap::default(), tensor(SIDE, SIDE), vec![0.0; SIDE * SIDE]);
            for round in 0..21 {
                let mut gradient = vec![0.0; SIDE * SIDE];
                for rank in 0..ranks {
                    let (column, row): (Vec<f32>, Vec<f32>) =
                        (sized(100 * round + rank), sized(100 * round + 50 + rank));
                    let product = column.iter().flat_map(|column| row.iter().map(move |row| column * row));
                    gradient.iter_mut().zip(product).for_each(|(sum, product)| *sum += product);
                }
                training.round(0.01, &gradient);
                assert!(miss(training.slot("left_basis").unwrap(), SIDE) < 1e-5, "round {round}");
                assert!(miss(training.slot("right_basis").unwrap(), SIDE) < 1e-5, "round {round}");
            }
            assert!(training.parameters().iter().all(|parameter| parameter.is_finite()));
        }
    }

    #[test]
    fn cuts_change_no_bit() {
        let train = |slice: usize, block: usize| {
            let soap = Soap { largest_side: 100, ..Soap::default() };
            let training = Native::of_tensor(soap, tensor(200, 67), noise(13_400, 1));
            let mut training = training.cut(slice, block);
            (2..5).for_each(|round| training.round(0.1, &noise(13_400, round)));
            training.parameters().to_vec()
        };
        assert_eq!(train(4096, 4096), train(1 << 20, 1 << 20));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(Soap::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
