//! Shampoo: gradients of matrices, preconditioned on both sides.
//!
//! Follows "Shampoo: Preconditioned Stochastic Tensor Optimization" (Gupta, Koren and Singer, ICML 2018,
//! arXiv:1802.09568), algorithm 1: `L` and `R` sum `G Gᵀ` and `Gᵀ G`, and the step is `L^(-1/4) G R^(-1/4)`, without
//! grafting. The roots come from coupled Newton iterations in f32, as in "Scalable Second Order Optimization for Deep
//! Learning" (Anil et al. 2020, arXiv:2002.09018). Momentum and L2 decay are as in `sgd`.
//!
//! A tensor with more than two axes is treated as a matrix whose rows are its first axis and whose columns are all
//! other axes. Vectors, and matrices with a side longer than `largest_side`, use the diagonal form of the method:
//! AdaGrad. A round takes about 80 times the cube of each side in multiplications, which the server computes natively;
//! `root_interval` spreads this cost over several rounds.

#![forbid(unsafe_code)]

use stepbox_guest::linear_algebra::{Matrix, MatrixMut, MatrixRef, multiply};
use stepbox_guest::prelude::*;

hyperparameters! {
    /// Gradients preconditioned on both sides (Gupta et al., arXiv:1802.09568); AdaGrad for vectors and long matrices.
    pub struct Shampoo {
        /// Added to the diagonals of both preconditioners, or a millionth of their Frobenius norm where that is more: f32
        /// knows no smaller eigenvalues.
        epsilon: f64 = 1e-4 in 1e-30..,
        /// Decay of the velocity.
        momentum: f32 = 0.0 in 0.0..1.0,
        /// Multiple of the parameter that is added to the gradient.
        weight_decay: f32 = 0.0 in 0.0..,
        /// Longest side of a matrix that is preconditioned. Both sides' squares are kept twice.
        largest_side: i64 = 1024 in 1..=8192,
        /// Rounds from one computation of the roots to the next.
        root_interval: i64 = 1 in 1..,
    }
}

const VELOCITY: Slot = Slot::zero("velocity");
const SQUARES: Slot = Slot::zero("squares");
const LEFT: Slot = Slot::zero("left");
const RIGHT: Slot = Slot::zero("right");
const LEFT_ROOT: Slot = Slot::zero("left_root");
const RIGHT_ROOT: Slot = Slot::zero("right_root");

/// Least number added to the diagonal, relative to the Frobenius norm.
const SMALLEST_EIGENVALUE: f64 = 1e-6;

/// Each iteration multiplies a small eigenvalue by 2.4: about 21 iterations bring the smallest one to 1.
const MOST_ITERATIONS: usize = 30;

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    rate: f32,
    computes_roots: bool,
}

impl Shampoo {
    fn is_preconditioned(&self, tensor: &Tensor) -> bool {
        tensor.shape.len() > 1 && tensor.rows().max(tensor.columns()) <= self.largest_side as u64
    }

    /// The inverse fourth root of a symmetric matrix whose eigenvalues are 0 or more. With `A` scaled to eigenvalues
    /// between 0 and 5/2, start with M = A and X = I, and repeat F = 5/4 I - 1/4 M, X = X F, M = F⁴ M. M is always A X⁴
    /// and converges to I.
    fn inverse_fourth_root(&self, statistic: &[f32], side: usize) -> Result<Matrix, String> {
        let mut power = Matrix::from_values(statistic.to_vec(), side, side)?;
        let smallest = SMALLEST_EIGENVALUE * statistics::sum_of_squares(statistic).sqrt();
        add_to_diagonal(&mut power, self.epsilon.max(smallest) as f32);
        let scale = 2.5 / statistics::sum_of_squares(power.values()).sqrt();
        power.values_mut().iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
        let mut root = Matrix::zeros(side, side);
        add_to_diagonal(&mut root, scale.sqrt().sqrt() as f32);

        let mut distance = f64::INFINITY;
        for _ in 0..MOST_ITERATIONS {
            let mut factor = power.clone();
            factor.values_mut().iter_mut().for_each(|value| *value *= -0.25);
            add_to_diagonal(&mut factor, 1.25);
            root = product(root.matrix(), factor.matrix())?;
            let square = product(factor.matrix(), factor.matrix())?;
            power = product(product(square.matrix(), square.matrix())?.matrix(), power.matrix())?;

            // The distance decreases until rounding errors dominate.
            add_to_diagonal(&mut power, -1.0);
            let left = statistics::sum_of_squares(power.values());
            add_to_diagonal(&mut power, 1.0);
            if left >= distance {
                break;
            }
            distance = left;
        }
        Ok(root)
    }
}

fn add_to_diagonal(matrix: &mut Matrix, addend: f32) {
    let step = matrix.columns() + 1;
    matrix.values_mut().iter_mut().step_by(step).for_each(|value| *value += addend);
}

fn product(left: MatrixRef<'_>, right: MatrixRef<'_>) -> Result<Matrix, String> {
    let mut product = Matrix::zeros(left.rows(), right.columns());
    multiply(1.0, left, right, 0.0, &mut product.matrix_mut())?;
    Ok(product)
}

impl Optimizer for Shampoo {
    const NAME: &'static str = "shampoo";
    const LEARNING_RATE: f64 = 0.1;
    type Round = Round;

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        if !self.is_preconditioned(tensor) {
            return Ok(Plan::new().slots(&[VELOCITY, SQUARES]));
        }
        let (rows, columns) = (tensor.rows(), tensor.columns());
        // The gradient with its decay, and two products; an iteration needs six matrices.
        let work = (3 * tensor.elements() + 6 * rows.max(columns).pow(2)) * size_of::<f32>() as u64;
        let [left, left_root] = [LEFT, LEFT_ROOT].map(|slot| slot.matrix(rows, rows));
        let [right, right_root] = [RIGHT, RIGHT_ROOT].map(|slot| slot.matrix(columns, columns));
        Ok(Plan::new().slots(&[VELOCITY, left, right, left_root, right_root]).whole_tensor(work))
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<Round, String> {
        let computes_roots = (context.tensor_step - 1).is_multiple_of(self.root_interval as u64);
        Ok(Round { rate: context.learning_rate, computes_roots })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let (shampoo, round, epsilon) = (*self, *round, self.epsilon as f32);
        if !self.is_preconditioned(block.tensor()) {
            return block.update([VELOCITY, SQUARES], |parameter, gradient, [velocity, squares]| {
                let gradient = gradient + shampoo.weight_decay * parameter;
                let squares = squares + gradient * gradient;
                let velocity = shampoo.momentum * velocity + gradient / (squares + epsilon).sqrt();
                (parameter - round.rate * velocity, [velocity, squares])
            });
        }
        let (rows, columns) = (block.tensor().rows() as usize, block.tensor().columns() as usize);
        let decayed = block.gradient.iter().zip(&*block.parameters).map(|(g, p)| g + self.weight_decay * p);
        let gradient = Matrix::from_values(decayed.collect(), rows, columns)?;
        let [velocity, left, right, left_root, right_root] =
            block.slots.write_all([VELOCITY, LEFT, RIGHT, LEFT_ROOT, RIGHT_ROOT])?;
        let (g, transposed) = (gradient.matrix(), gradient.transposed());
        multiply(1.0, g, transposed, 1.0, &mut MatrixMut::new(left, rows, rows)?)?;
        multiply(1.0, transposed, g, 1.0, &mut MatrixMut::new(right, columns, columns)?)?;
        if round.computes_roots {
            left_root.copy_from_slice(self.inverse_fourth_root(left, rows)?.values());
            right_root.copy_from_slice(self.inverse_fourth_root(right, columns)?.values());
        }
        let step = product(MatrixRef::new(left_root, rows, rows)?, g)?;
        let step = product(step.matrix(), MatrixRef::new(right_root, columns, columns)?)?;
        for ((parameter, velocity), step) in block.parameters.iter_mut().zip(velocity).zip(step.values()) {
            *velocity = self.momentum * *velocity + step;
            *parameter -= round.rate * *velocity;
        }
        Ok(())
    }
}

register!(Shampoo);

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(elements: usize, factor: f32) -> Vec<f32> {
        (0..elements).map(|index| (index as f32 * factor).sin()).collect()
    }

    /// The largest absolute element of the difference between the identity and the product of four roots and the
    /// matrix.
    fn miss(shampoo: Shampoo, values: &[f32], side: usize) -> f32 {
        let matrix = Matrix::from_values(values.to_vec(), side, side).unwrap();
        let root = shampoo.inverse_fourth_root(values, side).unwrap();
        let square = product(root.matrix(), root.matrix()).unwrap();
        let mut identity =
            product(product(square.matrix(), matrix.matrix()).unwrap().matrix(), square.matrix()).unwrap();
        add_to_diagonal(&mut identity, -1.0);
        identity.values().iter().fold(0.0, |largest: f32, value| largest.max(value.abs()))
    }

    #[test]
    fn roots_are_roots() {
        let factor = Matrix::from_values(waves(30 * 30, 1.7), 30, 30).unwrap();
        for scale in [1.0, 1e-12, 1e12] {
            let mut matrix = Matrix::zeros(30, 30);
            add_to_diagonal(&mut matrix, scale);
            multiply(scale, factor.matrix(), factor.transposed(), 1.0, &mut matrix.matrix_mut()).unwrap();
            let missed = miss(Shampoo { epsilon: 1e-30, ..Shampoo::default() }, matrix.values(), 30);
            assert!(missed < 1e-3, "{scale}: {missed}");
        }
    }

    #[test]
    fn a_diagonal_gradients_first_step_is_its_sign() {
        let tensor = Tensor::new("m", &[2, 2], 1);
        let shampoo = Shampoo { epsilon: 1e-12, ..Shampoo::default() };
        let mut training = Native::of_tensor(shampoo, tensor, vec![1.0; 4]);
        training.round(0.5, &[3.0, 0.0, 0.0, -0.25]);
        for (parameter, expected) in training.parameters().iter().zip([0.5, 1.0, 1.0, 1.5]) {
            assert!((parameter - expected).abs() < 1e-4, "{:?}", training.parameters());
        }
    }

    #[test]
    fn singular_statistics_and_gradients_of_any_size_give_steps_of_a_bounded_size() {
        for scale in [0.0, 1e-30, 1e-6, 1.0, 1e9] {
            let tensor = Tensor::new("m", &[40, 25], 1);
            let mut training = Native::of_tensor(Shampoo::default(), tensor, vec![0.0; 1000]);
            let column = waves(40, 0.3);
            // A gradient of rank 1.
            let gradient: Vec<f32> = (0..1000).map(|index| scale * column[index / 25] * (index % 25) as f32).collect();
            (0..5).for_each(|_| training.round(1.0, &gradient));
            let moved = statistics::sum_of_squares(training.parameters()).sqrt();
            // The k-th step along a constant gradient of rank 1 has norm 1 / sqrt(k) or less.
            assert!(moved < 3.3, "{scale}: {moved}");
            assert!(scale < 1.0 || moved > 3.2, "{scale}: {moved}");
        }
    }

    #[test]
    fn long_matrices_are_stepped_like_vectors() {
        let shampoo = Shampoo { largest_side: 8, momentum: 0.5, weight_decay: 0.1, ..Shampoo::default() };
        let train = |shape: &[u64]| {
            let mut training = Native::of_tensor(shampoo, Tensor::new("t", shape, 1), waves(27, 0.7));
            (1..4).for_each(|round| training.round(0.1, &waves(27, round as f32)));
            training.parameters().to_vec()
        };
        assert_eq!(train(&[9, 3]), train(&[27]));
    }

    #[test]
    fn roots_serve_until_the_next_are_computed() {
        let shampoo = Shampoo { root_interval: 3, ..Shampoo::default() };
        let mut training = Native::of_tensor(shampoo, Tensor::new("m", &[3, 4, 2], 1), waves(24, 0.7));
        let mut roots = Vec::new();
        for round in 1..=4 {
            training.round(0.1, &waves(24, round as f32));
            roots.push(training.slot("left_root").unwrap().to_vec());
        }
        assert!(roots[0] == roots[1] && roots[1] == roots[2] && roots[2] != roots[3]);
    }

    #[test]
    fn cuts_change_no_bit() {
        let train = |slice: usize, block: usize| {
            let shampoo = Shampoo { largest_side: 100, ..Shampoo::default() };
            let training = Native::of_tensor(shampoo, Tensor::new("t", &[200, 67], 1), waves(13_400, 0.37));
            let mut training = training.cut(slice, block);
            (1..4).for_each(|round| training.round(0.1, &waves(13_400, round as f32)));
            training.parameters().to_vec()
        };
        assert_eq!(train(4096, 4096), train(1 << 20, 1 << 20));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(Shampoo::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
