//! Measurements can select the metering, which does not change results.

mod common;

use common::{bits, component, values, vector};
use stepbox_sandbox::{
    CallFailure, LocalTensor, LocalTraining, Metering, Sandbox, SandboxConfig, SandboxError, StepContext, StepError,
};

const MODES: [Metering; 4] = [Metering::Off, Metering::Fuel, Metering::Epochs, Metering::FuelAndEpochs];

/// Parameters after three rounds.
fn trained(name: &str, metering: Metering) -> Vec<u32> {
    let admitted = Sandbox::metered(SandboxConfig::default(), metering).unwrap().admit(&component(name)).unwrap();
    let settings = admitted.configure(None, &[]).unwrap();
    let rate = settings.learning_rate();
    let mut description = vector(6400);
    description.shape = vec![64, 100];
    let tensor = LocalTensor { description, settings, parameters: values(6400, 1) };
    let mut training = LocalTraining::new(&admitted, vec![tensor], 4096).unwrap();
    for round in 1..=3 {
        let context = StepContext { contributors: 1, ..common::context(round, rate) };
        training.round(&context, &[&values(6400, 2)]).unwrap();
    }
    bits(&training.parameters(0).unwrap())
}

#[test]
fn all_metering_gives_the_same_bits() {
    // muon makes the server multiply matrices, which costs fuel.
    for name in ["adamw", "muon"] {
        let expected = trained(name, Metering::default());
        for metering in MODES {
            assert_eq!(trained(name, metering), expected, "{name}, {metering:?}");
        }
    }
}

#[test]
fn fuel_bounds_a_call_where_it_is_counted() {
    let endless = component("hostile/endless-loop");
    let failure = |metering| match Sandbox::metered(SandboxConfig::default(), metering).unwrap().admit(&endless) {
        Err(SandboxError::Trial(StepError::Call(error))) => error.failure,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the call returned"),
    };
    for metering in [Metering::Fuel, Metering::FuelAndEpochs] {
        assert!(matches!(failure(metering), CallFailure::OutOfFuel { .. }));
    }
    assert!(matches!(failure(Metering::Epochs), CallFailure::Deadline { .. }));
}
