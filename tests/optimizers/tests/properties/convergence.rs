//! Shampoo and SOAP need fewer rounds than AdamW where curvatures differ by orders of magnitude along axes other than
//! those of the parameters (Gupta et al. 2018, Vyas et al. 2024).

use stepbox_guest::linear_algebra::nalgebra::DMatrix;
use stepbox_optimizer_tests::context;

use crate::{normal, rotation, training};

const SIDE: usize = 16;

/// 1/2 tr((W - W*)ᵀ A (W - W*) B): a quadratic whose Hessian is the Kronecker product of two matrices.
struct Quadratic {
    left: DMatrix<f32>,
    right: DMatrix<f32>,
    minimum: DMatrix<f32>,
    /// Whether the first gradient is unrelated to the quadratic.
    misleads: bool,
}

impl Quadratic {
    /// A quadratic with curvatures from 1 down to 1/condition on each side, along the axes of these rotations.
    fn new(condition: f32, left: &DMatrix<f32>, right: &DMatrix<f32>) -> Self {
        let curvatures = DMatrix::from_fn(SIDE, SIDE, |row, column| {
            if row == column { condition.powf(-(row as f32) / (SIDE - 1) as f32) } else { 0.0 }
        });
        Self {
            left: left * &curvatures * left.transpose(),
            right: right * &curvatures * right.transpose(),
            minimum: left * DMatrix::from_vec(SIDE, SIDE, normal(SIDE * SIDE, 3)) * right.transpose(),
            misleads: false,
        }
    }

    fn loss_and_gradient(&self, parameters: &[f32]) -> (f32, Vec<f32>) {
        let away = DMatrix::from_row_slice(SIDE, SIDE, parameters) - &self.minimum;
        let gradient = &self.left * &away * &self.right;
        (0.5 * away.dot(&gradient), gradient.transpose().as_slice().to_vec())
    }

    /// Rounds until the loss is this fraction of the initial loss, with the best of many learning rates; `MOST_ROUNDS`
    /// if more.
    fn rounds(&self, name: &str, hyperparameters: &[(&str, &str)], share: f32) -> u64 {
        let rates = (-10..=3).map(|exponent| 2.0_f64.powi(exponent));
        rates.map(|rate| self.rounds_at(name, hyperparameters, share, rate)).min().unwrap_or(MOST_ROUNDS)
    }

    fn rounds_at(&self, name: &str, hyperparameters: &[(&str, &str)], share: f32, rate: f64) -> u64 {
        let mut training = training(name, hyperparameters, &[SIDE as u64; 2], vec![0.0; SIDE * SIDE]);
        let (first, _) = self.loss_and_gradient(&vec![0.0; SIDE * SIDE]);
        for round in 1..=MOST_ROUNDS {
            let (loss, mut gradient) = self.loss_and_gradient(&training.parameters(0).unwrap());
            if self.misleads && round == 1 {
                gradient = normal(SIDE * SIDE, 4);
            }
            if !loss.is_finite() || loss > 10.0 * first {
                return MOST_ROUNDS;
            }
            if loss <= share * first {
                return round - 1;
            }
            training.round(&context(round, rate), &[&gradient]).unwrap();
        }
        MOST_ROUNDS
    }
}

/// More rounds than any of the optimizers needs.
const MOST_ROUNDS: u64 = 2000;

/// Curvatures over six decades, with a hundred-thousandth of the initial loss as the target: AdamW needs 99 rounds
/// along the axes, and 1371 in a rotated basis.
const CONDITION: f32 = 1000.0;
const SHARE: f32 = 1e-5;

const ADAMW: [(&str, &str); 1] = [("weight_decay", "0")];
/// AdamW's betas, so that the basis is the only difference.
const SOAP: [(&str, &str); 3] = [("weight_decay", "0"), ("beta1", "0.9"), ("beta2", "0.999")];

#[test]
fn shampoo_and_soap_need_a_fifth_of_adamws_rounds_in_a_rotated_basis() {
    let rotated = Quadratic::new(CONDITION, &rotation(SIDE, 1), &rotation(SIDE, 2));
    let adamw = rotated.rounds("adamw", &ADAMW, SHARE);
    let shampoo = rotated.rounds("shampoo", &[], SHARE);
    let soap = rotated.rounds("soap", &SOAP, SHARE);
    println!("rounds: adamw {adamw}, shampoo {shampoo}, soap {soap}");
    assert!(adamw < MOST_ROUNDS, "AdamW must converge for the comparison");
    assert!(5 * shampoo < adamw, "shampoo {shampoo}, adamw {adamw}");
    assert!(5 * soap < adamw, "soap {soap}, adamw {adamw}");

    // The reason: SOAP finds the axes, and in the rotated basis it behaves as AdamW does along them.
    let identity = DMatrix::identity(SIDE, SIDE);
    let straight = Quadratic::new(CONDITION, &identity, &identity);
    let along = straight.rounds("adamw", &ADAMW, SHARE);
    println!("rounds along the axes: adamw {along}");
    assert!(5 * along < adamw, "adamw {along}, in the rotated basis {adamw}");
    assert!(4 * soap < 5 * along, "soap {soap}, adamw along the axes {along}");
}

#[test]
fn soap_leaves_a_basis_that_a_first_gradient_misled_it_to() {
    let misleading = Quadratic { misleads: true, ..Quadratic::new(CONDITION, &rotation(SIDE, 1), &rotation(SIDE, 2)) };
    // A variance with a short memory: what it accumulates in one basis is meaningless in another.
    let renewed_every = |rounds| {
        let given = [("beta1", "0.9"), ("beta2", "0.95"), ("weight_decay", "0"), ("precondition_frequency", rounds)];
        misleading.rounds("soap", &given, SHARE)
    };
    let (renewing, never) = (renewed_every("10"), renewed_every("1000000"));
    let adamw = misleading.rounds("adamw", &[("beta1", "0.9"), ("beta2", "0.95"), ("weight_decay", "0")], SHARE);
    println!("rounds: soap {renewing}, soap in its first basis {never}, adamw {adamw}");
    assert!(3 * renewing < never, "{renewing}, in the first basis {never}");
    assert!(3 * renewing < adamw, "{renewing}, adamw {adamw}");
}

#[test]
fn shampoo_does_not_see_a_rotation() {
    let identity = DMatrix::identity(SIDE, SIDE);
    let (left, right) = (rotation(SIDE, 1), rotation(SIDE, 2));
    let straight = Quadratic::new(10.0, &identity, &identity);
    let rotated = Quadratic::new(10.0, &left, &right);
    let [mut plain, mut turned] =
        ["shampoo"; 2].map(|name| training(name, &[], &[SIDE as u64; 2], vec![0.0; SIDE * SIDE]));
    for round in 1..=50 {
        for (quadratic, training) in [(&straight, &mut plain), (&rotated, &mut turned)] {
            let (_, gradient) = quadratic.loss_and_gradient(&training.parameters(0).unwrap());
            training.round(&context(round, 0.1), &[&gradient]).unwrap();
        }
    }
    let expected = left * DMatrix::from_row_slice(SIDE, SIDE, &plain.parameters(0).unwrap()) * right.transpose();
    let turned = DMatrix::from_row_slice(SIDE, SIDE, &turned.parameters(0).unwrap());
    let apart = (&turned - &expected).norm() / expected.norm();
    assert!(apart < 1e-3, "{apart}");
}
