//! Properties that papers claim of their optimizers, tested on the components. They hold for any implementation,
//! whereas a trajectory would only show that ours agrees with another.
//!
//! All numbers are made up from fixed seeds. Nothing here is timed.

mod convergence;
mod eight_bits;
mod estimates;
mod muon;
mod rows;
mod sampling;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use stepbox_guest::linear_algebra::nalgebra::DMatrix;
use stepbox_guest::{Context, Tensor};
use stepbox_optimizer_tests::admit;
use stepbox_sandbox::{AdmittedComponent, Limits, LocalTensor, LocalTraining, TensorDescription};

/// A shipped component, admitted once for all tests.
fn component(name: &str) -> AdmittedComponent {
    static ADMITTED: Mutex<BTreeMap<String, AdmittedComponent>> = Mutex::new(BTreeMap::new());
    let mut admitted = ADMITTED.lock().unwrap_or_else(PoisonError::into_inner);
    admitted.entry(name.to_owned()).or_insert_with(|| admit(name, Limits::default())).clone()
}

/// A tensor that a shipped component trains with these hyperparameters.
fn training(name: &str, hyperparameters: &[(&str, &str)], shape: &[u64], parameters: Vec<f32>) -> LocalTraining {
    let component = component(name);
    let given: Vec<_> = hyperparameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let settings = component.configure(None, &given).unwrap_or_else(|error| panic!("{name}: {error}"));
    let description =
        TensorDescription { name: "tensor".into(), shape: shape.to_vec(), identity: 1, ..TensorDescription::default() };
    let tensor = LocalTensor { description, settings, parameters };
    LocalTraining::new(&component, vec![tensor], 1 << 18).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Independent normally distributed numbers with mean 0 and variance 1.
fn normal(elements: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; elements];
    let random = Context { seed, ..Context::of_round(1, 0.0) }.random(&Tensor::new("made up", &[], 0));
    random.fill_normal(0, &mut values);
    values
}

/// A random orthogonal matrix without a preferred direction.
fn rotation(side: usize, seed: u64) -> DMatrix<f32> {
    DMatrix::from_vec(side, side, normal(side * side, seed)).qr().q()
}

/// The values of a slot, for a tensor in one slice.
fn slot(training: &LocalTraining, name: &str) -> Vec<f32> {
    let bytes = training.slot(0, name).unwrap().unwrap_or_else(|| panic!("no slot {name}")).concat();
    bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

fn differences(one: &[f32], other: &[f32]) -> Vec<f32> {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| one - other).collect()
}
