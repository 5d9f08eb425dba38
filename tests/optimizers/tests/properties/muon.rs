//! Muon's step is a matrix whose singular values are all about 1 (Jordan et al. 2024): between 0.7 and 1.2 with five
//! iterations and the coefficients 3.4445, -4.7750, 2.0315.

use stepbox_guest::linear_algebra::nalgebra::DMatrix;
use stepbox_optimizer_tests::context;

use crate::{differences, normal, rotation, training};

/// Singular values of the step of the last round, without the factor for the shape.
fn singular_values(rows: usize, columns: usize, gradients: &[Vec<f32>]) -> Vec<f32> {
    let zeros = vec![0.0; rows * columns];
    let mut training = training("muon", &[], &[rows as u64, columns as u64], zeros.clone());
    let mut before = zeros;
    for (gradient, round) in gradients.iter().zip(1..) {
        before = training.parameters(0).unwrap();
        training.round(&context(round, 1.0), &[gradient]).unwrap();
    }
    let step = differences(&before, &training.parameters(0).unwrap());
    let scale = (rows as f32 / columns as f32).max(1.0).sqrt();
    let step = DMatrix::from_row_slice(rows, columns, &step) / scale;
    step.singular_values().as_slice().to_vec()
}

fn assert_within(values: &[f32], least: f32, most: f32) {
    assert!(values.iter().all(|value| (least..most).contains(value)), "not in {least}..{most}: {values:?}");
}

#[test]
fn singular_values_of_a_step_are_about_one() {
    for (rows, columns) in [(48, 96), (96, 48), (64, 32), (1, 50)] {
        let gradients: Vec<_> = (0..6).map(|round| normal(rows * columns, round)).collect();
        assert_within(&singular_values(rows, columns, &gradients), 0.68, 1.2);
        let large: Vec<_> = gradients.iter().map(|values| values.iter().map(|value| value * 1e6).collect()).collect();
        assert_within(&singular_values(rows, columns, &large), 0.68, 1.2);
    }
}

#[test]
fn directions_a_hundred_times_weaker_step_as_far_as_the_strongest() {
    let stretched = |weakest: f32| {
        let stretch = |row: usize, column: usize| if row == column { weakest.powf(row as f32 / 31.0) } else { 0.0 };
        let matrix = rotation(32, 1) * DMatrix::from_fn(32, 32, stretch) * rotation(32, 2);
        singular_values(32, 32, &[matrix.transpose().as_slice().to_vec()])
    };
    assert_within(&stretched(0.01), 0.68, 1.2);
    // Beyond that ratio, five iterations are not enough; but no singular value exceeds the bound.
    assert_within(&stretched(1e-6), 0.0, 1.2);
}

#[test]
fn a_gradient_of_rank_one_or_none_steps_no_further() {
    let (column, row) = (normal(24, 1), normal(40, 2));
    let product: Vec<f32> = column.iter().flat_map(|one| row.iter().map(move |other| one * other)).collect();
    let values = singular_values(24, 40, &[product]);
    assert_within(&values[..1], 0.68, 1.2);
    assert_within(&values[1..], 0.0, 1e-3);
    assert_within(&singular_values(24, 40, &[vec![0.0; 960]]), 0.0, 1e-9);
}
