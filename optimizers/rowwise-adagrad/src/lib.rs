//! Row-wise Adagrad: Adagrad for embeddings, with one number of state per row.
//!
//! Follows FBGEMM's `EXACT_ROWWISE_ADAGRAD`, with which TorchRec and DLRM ("Deep Learning Recommendation Model for
//! Personalization and Recommendation Systems", Naumov et al., arXiv:1906.00091) train embeddings: the sum grows by the
//! mean of a row's squared gradients, and epsilon is added outside the root. Only rows that received a gradient are
//! visited, and weight decay applies only to these rows. A tensor with fewer than two axes counts as rows of one
//! element: plain Adagrad.

#![forbid(unsafe_code)]

use stepbox_guest::{Row, prelude::*};

hyperparameters! {
    /// Row-wise Adagrad, as FBGEMM and TorchRec compute it: one sum of mean squares for each row.
    pub struct RowwiseAdagrad {
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..,
        /// What each row's sum starts at.
        initial_accumulator: f32 = 0.0 in 0.0..,
        /// Multiple of the parameter that is added to its gradient (L2 penalty), in touched rows.
        weight_decay: f32 = 0.0 in 0.0..,
    }
}

impl RowwiseAdagrad {
    fn sum(&self) -> Slot {
        Slot::constant("sum", f64::from(self.initial_accumulator))
    }

    fn step_row(&self, rate: f32, row: Row<'_, 1>) {
        let Row { parameters, gradient, slots: [sum], .. } = row;
        let gradient_of = |parameter: f32, gradient: f32| gradient + self.weight_decay * parameter;
        let squares = parameters.iter().zip(gradient).map(|(parameter, gradient)| {
            let gradient = gradient_of(*parameter, *gradient);
            gradient * gradient
        });
        sum[0] += squares.sum::<f32>() / gradient.len() as f32;
        let rate = rate / (sum[0].sqrt() + self.epsilon);
        for (parameter, gradient) in parameters.iter_mut().zip(gradient) {
            *parameter -= rate * gradient_of(*parameter, *gradient);
        }
    }
}

impl Optimizer for RowwiseAdagrad {
    const NAME: &'static str = "rowwise-adagrad";
    const LEARNING_RATE: f64 = 0.01;
    /// The learning rate of the round.
    type Round = f32;

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        Ok(if tensor.shape.len() >= 2 {
            Plan::new().slots(&[self.sum().per_row()]).touched_rows()
        } else {
            Plan::new().slots(&[self.sum()])
        })
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<f32, String> {
        Ok(context.learning_rate)
    }

    fn step(&self, rate: &f32, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let (this, rate) = (*self, *rate);
        if block.tensor().shape.len() >= 2 {
            return block.for_each_row([this.sum()], |row| this.step_row(rate, row));
        }
        block.update([this.sum()], |parameter, gradient, [sum]| {
            let gradient = gradient + this.weight_decay * parameter;
            let sum = sum + gradient * gradient;
            (parameter - rate * gradient / (sum.sqrt() + this.epsilon), [sum])
        })
    }
}

register!(RowwiseAdagrad);

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(optimizer: RowwiseAdagrad, rows: u64, parameters: Vec<f32>) -> Native<RowwiseAdagrad> {
        let columns = parameters.len() as u64 / rows;
        Native::of_tensor(optimizer, Tensor::new("embedding", &[rows, columns], 1), parameters)
    }

    #[test]
    fn a_touched_row_steps_by_its_gradient_over_the_root_of_its_mean_square() {
        let mut training = embedding(RowwiseAdagrad::default(), 3, vec![1.0; 6]);
        training.round_rows(&Context::of_round(1, 0.5), &[1], &[1.0, -7.0]);
        // The mean square is 25.
        let expected = [1.0, 1.0, 0.9, 1.7, 1.0, 1.0];
        let near = training.parameters().iter().zip(expected).all(|(ours, expected)| (*ours - expected).abs() <= 1e-6);
        assert!(near, "{:?}", training.parameters());
        assert_eq!(training.slot("sum"), Some(&[0.0, 25.0, 0.0][..]));
        training.round_rows(&Context::of_round(2, 0.5), &[1, 2], &[0.0, 0.0, 2.0, 0.0]);
        assert_eq!(training.slot("sum"), Some(&[0.0, 25.0, 2.0][..]));
    }

    #[test]
    fn sums_start_where_they_are_told_to_and_decay_counts_in_touched_rows() {
        let optimizer = RowwiseAdagrad { initial_accumulator: 9.0, weight_decay: 2.0, epsilon: 0.0 };
        let mut training = embedding(optimizer, 2, vec![2.0, 2.0]);
        training.round_rows(&Context::of_round(1, 0.5), &[0], &[0.0]);
        // The gradient is 2 × 2, the sum 9 + 16.
        assert_eq!(training.slot("sum"), Some(&[25.0, 9.0][..]));
        assert!((training.parameters()[0] - 1.6).abs() < 1e-6);
        assert_eq!(training.parameters()[1], 2.0);
    }

    #[test]
    fn a_touched_row_of_zeros_stays() {
        let mut training = embedding(RowwiseAdagrad::default(), 1, vec![1.0, 2.0]);
        training.round_rows(&Context::of_round(1, 0.5), &[0], &[0.0, 0.0]);
        assert_eq!(training.parameters(), [1.0, 2.0]);
    }

    #[test]
    fn a_vector_counts_as_rows_of_one_element() {
        let gradient = [3.0, -0.5, 1.0];
        let mut vector = Native::new(RowwiseAdagrad::default(), vec![1.0; 3]);
        let mut column = embedding(RowwiseAdagrad::default(), 3, vec![1.0; 3]);
        for _ in 0..3 {
            vector.round(0.1, &gradient);
            column.round(0.1, &gradient);
        }
        let near = vector.parameters().iter().zip(column.parameters()).all(|(a, b)| (*a - *b).abs() <= 1e-6);
        assert!(near, "{:?}", vector.parameters());
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum_row_by_row() {
        let mut training = embedding(RowwiseAdagrad::default(), 4, vec![4.0, -4.0, 2.0, -2.0, 0.0, 1.0, 3.0, -3.0]);
        for round in 1..=4000 {
            let row = round % 4;
            let first = 2 * row as usize;
            let gradient: Vec<f32> = training.parameters()[first..first + 2].iter().map(|value| value - 1.0).collect();
            training.round_rows(&Context::of_round(round, 0.5), &[row as u32], &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn cuts_change_no_bit() {
        let wave =
            |factor: f32, count: usize| (0..count).map(|index| (index as f32 * factor).sin()).collect::<Vec<f32>>();
        let train = |slice: usize, block: usize| {
            let tensor = Tensor::new("t", &[200, 65], 1);
            let optimizer = RowwiseAdagrad::default();
            let mut training = Native::of_tensor(optimizer, tensor, wave(0.37, 13_000)).cut(slice, block);
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
            Native::of_tensor(RowwiseAdagrad::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
