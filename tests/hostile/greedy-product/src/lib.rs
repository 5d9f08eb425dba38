//! A hostile guest that makes the server multiply matrices far larger than the tensor that it steps: it must pay for
//! them in fuel.

#![forbid(unsafe_code)]

use stepbox_guest::linear_algebra::{Matrix, multiply};
use stepbox_guest::prelude::*;

hyperparameters! {
    /// Has the server multiply matrices far larger than the tensor it is to step.
    pub struct Hostile {}
}

const SIDE: usize = 2048;

impl Optimizer for Hostile {
    const NAME: &'static str = "greedy-product";
    const LEARNING_RATE: f64 = 0.01;
    type Round = ();

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        Ok(if tensor.rows() > 1 { Plan::new().whole_tensor(3 * 4 * (SIDE * SIDE) as u64) } else { Plan::new() })
    }

    fn begin(&self, _: usize, _: &Tensor, _: &Context, _: &mut Shared<'_>) -> Result<(), String> {
        Ok(())
    }

    fn step(&self, (): &(), _: usize, block: &mut Block<'_>) -> Result<(), String> {
        if block.tensor().rows() > 1 {
            let (left, right) = (Matrix::zeros(SIDE, SIDE), Matrix::zeros(SIDE, SIDE));
            let mut product = Matrix::zeros(SIDE, SIDE);
            multiply(1.0, left.matrix(), right.matrix(), 0.0, &mut product.matrix_mut())?;
        }
        Ok(())
    }
}

register!(Hostile);
