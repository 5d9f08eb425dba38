//! Steps that fail late, and other attacks after the trial is over.

use std::sync::Arc;

use stepbox_corpus::{Guest, Keys, beside_an_honest_one, floats, sandbox, values};
use stepbox_sandbox::{CallError, CallFailure, Fault, Limits, SandboxError, StepError, TensorDescription};

/// Blocks of one chunk, so that a slice has many blocks.
fn small_blocks() -> Limits {
    Limits { block_elements: 4096, ..Limits::default() }
}

fn failure(outcome: Result<(), StepError>) -> CallFailure {
    match outcome {
        Err(StepError::Call(error)) => error.failure,
        other => panic!("{other:?}"),
    }
}

pub fn a_loop_that_begins_when_the_trial_is_over_is_stopped() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let admitted = sandbox.admit(&Guest::EndlessExports.with_trick('G')).unwrap();
        let mut keys = Keys::new(&admitted, &[5000, 6000]);
        (1..5).for_each(|round| (0..2).for_each(|key| keys.step(key, round).unwrap()));
        let before = [keys.state(0).unwrap(), keys.state(1).unwrap()];
        for key in [0, 1, 0] {
            assert!(matches!(failure(keys.step(key, 5)), CallFailure::OutOfFuel { .. }));
        }
        assert!([keys.state(0).unwrap(), keys.state(1).unwrap()] == before);
    });
}

pub fn fuel_that_ends_in_a_late_block_takes_the_earlier_ones_back() {
    beside_an_honest_one(small_blocks(), |sandbox| {
        let admitted = sandbox.admit(&Guest::LateSpender.component()).unwrap();
        let mut keys = Keys::new(&admitted, &[8 * 4096, 4096]);
        (1..5).for_each(|round| (0..2).for_each(|key| keys.step(key, round).unwrap()));
        let before = keys.state(0).unwrap();
        for _ in 0..2 {
            assert!(matches!(failure(keys.step(0, 5)), CallFailure::OutOfFuel { .. }));
            assert!(keys.state(0).unwrap() == before);
            // A single block is never late.
            keys.step(1, 5).unwrap();
        }
    });
}

pub fn a_trap_in_a_later_phase_takes_the_earlier_ones_back() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let admitted = sandbox.admit(&Guest::LateTrap.component()).unwrap();
        let mut keys = Keys::new(&admitted, &[5000, 6000]);
        (0..2).for_each(|key| keys.step(key, 1).unwrap());
        let mut poisoned = values(5000, 0);
        poisoned[4000] = 2e9;
        keys.load(0, &poisoned).unwrap();
        let before = [keys.state(0).unwrap(), keys.state(1).unwrap()];
        assert!(matches!(failure(keys.step(0, 2)), CallFailure::Trap { .. }));
        assert!([keys.state(0).unwrap(), keys.state(1).unwrap()] == before);
        keys.step(1, 2).unwrap();
    });
}

pub fn a_step_that_scribbles_and_traps_leaves_no_trace() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for (guest, poison) in [(Guest::Scribbler, 4242.5), (Guest::SlowPoison, 2e9)] {
            let admitted = sandbox.admit(&guest.component()).unwrap();
            let mut keys = Keys::new(&admitted, &[5000, 6000]);
            let mut poisoned = values(5000, 0);
            poisoned[4000] = poison;
            keys.load(0, &poisoned).unwrap();
            let before = [keys.state(0).unwrap(), keys.state(1).unwrap()];
            for _ in 0..2 {
                assert!(matches!(failure(keys.step(0, 10)), CallFailure::Trap { .. }), "{}", guest.name());
                assert!([keys.state(0).unwrap(), keys.state(1).unwrap()] == before, "{}", guest.name());
            }
            keys.step(1, 9).unwrap();
        }
    });
}

pub fn memory_that_grows_step_by_step_meets_its_limit() {
    let limits = Limits { guest_overhead_bytes: 8 << 20, ..Limits::default() };
    beside_an_honest_one(limits, |sandbox| {
        let admitted = sandbox.admit(&Guest::MemoryCreeper.component()).unwrap();
        let mut keys = Keys::new(&admitted, &[5000, 6000]);
        let mut before = [keys.state(0).unwrap(), keys.state(1).unwrap()];
        let mut failures = 0;
        for round in 5..45 {
            match keys.step(0, round) {
                Ok(()) => before[0] = keys.state(0).unwrap(),
                Err(error) => {
                    let failure = failure(Err(error));
                    assert!(matches!(failure, CallFailure::Memory { .. }), "{failure}");
                    failures += 1;
                }
            }
            assert!([keys.state(0).unwrap(), keys.state(1).unwrap()] == before);
            assert!(keys.pool.memory_bytes() < 16 << 20, "{} bytes", keys.pool.memory_bytes());
        }
        assert!((2..20).contains(&failures), "each new instance can allocate the same amount again: {failures}");
    });
}

pub fn the_loss_is_the_one_of_the_round() {
    let admitted = sandbox(Limits::default()).admit(&Guest::LossProbe.component()).unwrap();
    let mut keys = Keys::new(&admitted, &[5000]);
    let before: Vec<f32> = floats(keys.published(0)).collect();
    keys.step(0, 1).unwrap();
    assert!(floats(keys.published(0)).zip(before).all(|(now, before)| now == before + 0.5));
}

pub fn a_loop_in_any_export_after_the_trial_is_stopped() {
    let stopped = |outcome: Result<(), SandboxError>, export| match outcome {
        Err(SandboxError::Call(CallError { function, failure: CallFailure::OutOfFuel { .. } })) => {
            assert_eq!(function, export);
        }
        other => panic!("{export}: {other:?}"),
    };
    beside_an_honest_one(Limits::default(), |sandbox| {
        let guest = |trick| sandbox.admit(&Guest::EndlessExports.with_trick(trick)).unwrap();
        for (trick, export) in [('H', "plan"), ('J', "bind")] {
            let admitted = guest(trick);
            stopped(Keys::new(&admitted, &[]).add(&admitted, &[5000]), export);
        }
        // The first key exists and must not change.
        let admitted = guest('I');
        let mut keys = Keys::new(&admitted, &[5000]);
        (1..5).for_each(|round| keys.step(0, round).unwrap());
        let before = keys.state(0).unwrap();
        stopped(keys.add(&admitted, &[6000]), "reserve");
        assert!(keys.state(0).unwrap() == before);
        keys.step(0, 5).unwrap();

        let mut keys = Keys::new(&guest('K'), &[5000, 6000]);
        (1..5).for_each(|round| (0..2).for_each(|key| keys.step(key, round).unwrap()));
        let before = [keys.state(0).unwrap(), keys.state(1).unwrap()];
        for key in [0, 1, 0] {
            match keys.step(key, 5) {
                Err(StepError::Call(CallError { function, failure: CallFailure::OutOfFuel { .. } })) => {
                    assert_eq!(function, "begin");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!([keys.state(0).unwrap(), keys.state(1).unwrap()] == before);
    });
}

pub fn a_trial_that_was_lied_to_buys_no_more_fuel_than_the_limits() {
    const ELEMENTS: usize = 100_000;
    let limits = Limits::default();
    let allowed = limits.call_fuel + limits.fuel_per_element * ELEMENTS as u64;
    beside_an_honest_one(limits, |sandbox| {
        let admitted = sandbox.admit(&Guest::SlowStarter.with_trick('C')).unwrap();
        let seemed = admitted.fuel().budget(ELEMENTS as u64);
        assert!(seemed > 2 * allowed, "the guest misled the trial: {seemed}");
        let mut keys = Keys::new(&admitted, &[ELEMENTS]);
        let CallFailure::OutOfFuel { budget } = failure(keys.step(0, 5)) else { panic!("the step had no fuel limit") };
        assert!(budget <= allowed + 1, "{budget} of {allowed}");
    });
}

pub fn all_calls_that_prepare_share_one_budget() {
    let limits = Limits { preparation_fuel: 100_000_000, ..Limits::default() };
    beside_an_honest_one(limits, |sandbox| {
        for trick in ['A', 'B'] {
            let admitted = sandbox.admit(&Guest::SlowStarter.with_trick(trick)).unwrap();
            let (preparation, settings) = (admitted.preparation(), admitted.configure(None, &[]).unwrap());
            let mut pool = admitted.pool();
            let mut prepare = |key: usize| {
                let name = format!("key {key}");
                let tensor = TensorDescription { name, shape: vec![100], ..TensorDescription::default() };
                let plan = Arc::new(admitted.plan_within(&settings, &tensor, &preparation)?);
                pool.bind_within(&tensor, &plan, &settings, 0, 100, &preparation).map(|_| ())
            };
            let refused = (0..100).find_map(|key| prepare(key).err().map(|error| (key, error)));
            let (prepared, error) = refused.expect("a hundred keys require more fuel than ten calls have");
            assert!(prepared >= 5, "{prepared}");
            assert_eq!(error, SandboxError::PreparationFuel { limit: 100_000_000 });
            assert_eq!(error.fault(), Fault::Publisher);
        }
    });
}

pub fn fuel_is_enough_to_the_last_unit_and_not_beyond() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let admitted = sandbox.admit(&Guest::JustShort.component()).unwrap();
        let mut keys = Keys::new(&admitted, &[5000]);
        // Runs one step that spends `turns` iterations, always from the same state.
        let mut step = |turns: u32| {
            let mut parameters = values(5000, 0);
            parameters[0] = turns as f32;
            keys.load(0, &parameters).unwrap();
            let before = keys.state(0).unwrap();
            let outcome = keys.step(0, 1);
            assert_eq!(keys.state(0).unwrap() == before, outcome.is_err(), "a step, or no trace of one");
            outcome
        };
        const FAR_TOO_MUCH: u32 = 1 << 24;
        // The same, always in a new instance, in which the optimizer has not allocated anything yet.
        let mut spend = |turns| {
            step(FAR_TOO_MUCH).unwrap_err();
            step(turns)
        };
        let budget = admitted.fuel().budget(5000);
        let (mut enough, mut too_much) = (0, u32::try_from(budget).unwrap());
        spend(enough).unwrap();
        failure(spend(too_much));
        while too_much - enough > 1 {
            let turns = enough.midpoint(too_much);
            match spend(turns) {
                Ok(()) => enough = turns,
                Err(_) => too_much = turns,
            }
        }
        for _ in 0..3 {
            spend(enough).unwrap();
            let failure = failure(spend(too_much));
            assert!(matches!(failure, CallFailure::OutOfFuel { budget: had } if had == budget), "{failure}");
        }
        // An iteration takes a few instructions.
        assert!(u64::from(enough) > budget / 50, "{enough} turns of {budget} units");
    });
}
