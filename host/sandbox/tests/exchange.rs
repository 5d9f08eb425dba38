//! Rounds in which the memory of gradients is reused for new parameters and for the old contents of slots: the bits are
//! the same as in any other round, and so is the rollback.

mod common;

use std::ops::Range;

use common::{Training, admit, bytes, context, values};
use stepbox_sandbox::{AdmittedComponent, CallFailure, Exchange, StepError};

const ELEMENTS: usize = 50_003;
const RATE: f64 = 0.01;

fn training(component: &AdmittedComponent, parameters: &[f32], rate: f64) -> Training {
    Training::new(component, component.configure(Some(rate), &[]).unwrap(), parameters)
}

/// Runs an exchange. The first buffer is the gradient; the others are available for writing.
fn exchange(training: &mut Training, round: u64, rate: f64, buffers: Vec<Vec<u8>>) -> Result<Vec<u8>, StepError> {
    let mut former = vec![0; ELEMENTS * 4];
    training.pool.read_parameters(training.slice, &mut former).unwrap();
    let mut aggregate = |gradients: &[Vec<u8>], target: &mut [f32]| {
        let values = gradients[0].as_chunks::<4>().0;
        target.iter_mut().zip(values).for_each(|(target, value)| *target = f32::from_le_bytes(*value));
        match target.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(index) => Err(StepError::GradientNotFinite { index: index as u64, value: target[index] }),
        }
    };
    let exchange = Exchange {
        gradients: buffers,
        aggregate: &mut aggregate,
        former: Box::new(move |parameters| parameters.copy_from_slice(&former)),
    };
    training.pool.exchange(training.slice, &context(round, rate), exchange)
}

/// A gradient, and further buffers of these lengths with arbitrary contents.
fn buffers(round: u64, others: &[usize]) -> Vec<Vec<u8>> {
    let mut buffers = vec![bytes(&values(ELEMENTS, round as u32))];
    buffers.extend(others.iter().map(|length| vec![0xa5; *length]));
    buffers
}

#[test]
fn an_exchange_is_a_step_and_can_be_taken_back_whatever_buffers_there_are() {
    let full = ELEMENTS * 4;
    for name in ["sgd", "adamw", "adamw-8bit", "amsgrad"] {
        let component = admit(name).unwrap();
        let parameters = values(ELEMENTS, 99);
        for others in [&[][..], &[full], &[full, full, full, full], &[full / 2, full], &[full / 2, 7]] {
            let mut stepped = training(&component, &parameters, RATE);
            let mut exchanged = training(&component, &parameters, RATE);
            for round in 1..=3 {
                let gradient = values(ELEMENTS, round as u32);
                let mut source = |range: Range<usize>, target: &mut [f32]| target.copy_from_slice(&gradient[range]);
                stepped.pool.step(stepped.slice, &context(round, RATE), &mut source).unwrap();
                stepped.pool.commit(stepped.slice);

                let before = exchanged.state();
                exchange(&mut exchanged, round, RATE, buffers(round, others)).unwrap();
                assert_ne!(exchanged.state(), before);
                let lent = exchanged.pool.roll_back(exchanged.slice);
                assert_eq!(lent.len(), others.len(), "{name}: the lent buffers are returned");
                assert_eq!(exchanged.state(), before, "{name} {others:?}: rolled back");

                let out = exchange(&mut exchanged, round, RATE, buffers(round, others)).unwrap();
                assert_eq!(exchanged.pool.commit(exchanged.slice).len(), others.len());
                assert_eq!(exchanged.state(), stepped.state(), "{name} {others:?} round {round}");
                assert_eq!(common::words(&out), exchanged.state()[0]);
                exchanged.pool.roll_back(exchanged.slice);
                assert_eq!(exchanged.state(), stepped.state(), "{name}: a committed round remains");
            }
        }
    }
}

#[test]
fn an_exchange_that_nobody_has_ended_is_taken_back_by_the_next_one() {
    let component = admit("adamw").unwrap();
    let [mut abandoned, mut expected] = [(); 2].map(|()| training(&component, &values(ELEMENTS, 99), RATE));
    exchange(&mut abandoned, 1, RATE, buffers(1, &[])).unwrap();
    for training in [&mut abandoned, &mut expected] {
        exchange(training, 1, RATE, buffers(2, &[])).unwrap();
        training.pool.commit(training.slice);
    }
    assert_eq!(abandoned.state(), expected.state());
}

#[test]
fn an_exchange_that_fails_leaves_no_trace() {
    for (guest, poison, rate) in
        [("hostile/scribbler", 4242.5, 1e-30), ("hostile/slow-poison", 2e9, 1e-30), ("sgd", f32::MAX, 1e38)]
    {
        let component = admit(guest).unwrap();
        let mut parameters = values(ELEMENTS, 3);
        parameters[49_000] = poison;
        let mut training = training(&component, &parameters, rate);
        let full = ELEMENTS * 4;
        let mut round = 0;
        let (before, error) = loop {
            round += 1;
            let before = training.state();
            match exchange(&mut training, round, rate, buffers(round, &[full, full])) {
                Ok(_) => training.pool.commit(training.slice),
                Err(error) => break (before, error),
            };
            assert!(round < 100, "{guest} behaves");
        };
        match &error {
            StepError::Call(error) => assert!(matches!(error.failure, CallFailure::Trap { .. }), "{error}"),
            StepError::NotFinite { .. } => assert_eq!(guest, "sgd"),
            other => panic!("{other}"),
        }
        assert_eq!(training.state(), before, "{guest}");
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_refused_before_anything_is_changed() {
    let component = admit("adamw").unwrap();
    let mut training = training(&component, &values(ELEMENTS, 3), RATE);
    let before = training.state();
    let mut gradient = values(ELEMENTS, 1);
    gradient[40_000] = f32::INFINITY;
    let refused = exchange(&mut training, 1, RATE, vec![bytes(&gradient)]).unwrap_err();
    assert_eq!(refused, StepError::GradientNotFinite { index: 40_000, value: f32::INFINITY });
    assert_eq!(training.state(), before);
    exchange(&mut training, 1, RATE, buffers(1, &[])).unwrap();
}
