//! What does not get as far as a key: refused while it is described, planned, placed or tried out.

use stepbox_corpus::{Guest, Keys, beside_an_honest_one};
use stepbox_sandbox::{AdmittedComponent, CallFailure, Fault, Limits, Sandbox, SandboxError, StepError};

/// Fuel that writing some MiB of text takes.
fn generous() -> Limits {
    Limits { call_fuel: 1 << 30, ..Limits::default() }
}

fn admit(sandbox: &Sandbox, component: &[u8]) -> Result<AdmittedComponent, SandboxError> {
    sandbox.admit(component)
}

fn refusal(sandbox: &Sandbox, component: &[u8], case: &str) -> SandboxError {
    match admit(sandbox, component) {
        Ok(_) => panic!("{case} was admitted"),
        Err(error) => {
            // A plan can also ask for more than the operator allows.
            assert!(matches!(error.fault(), Fault::Publisher | Fault::Operator), "{case}: {error}");
            assert!(error.to_string().len() < 8 << 10, "{case}: a message of {} bytes", error.to_string().len());
            error
        }
    }
}

/// How the call failed, in the trial or before, and in which function.
fn failure(error: SandboxError, case: &str) -> (&'static str, CallFailure) {
    match error {
        SandboxError::Call(error) | SandboxError::Trial(StepError::Call(error)) => (error.function, error.failure),
        other => panic!("{case}: {other}"),
    }
}

#[test]
pub fn guests_of_one_trick_meet_their_limit() {
    beside_an_honest_one(generous(), |sandbox| {
        for guest in [
            Guest::EndlessLoop,
            Guest::Entangled,
            Guest::ForbiddenImport,
            Guest::GreedyProduct,
            Guest::HugeNames,
            Guest::MemoryBomb,
            Guest::NanOutput,
            Guest::Overwriter,
            Guest::Recursion,
            Guest::WasiProbe,
            Guest::WasiSleeper,
        ] {
            let case = guest.name();
            let error = refusal(sandbox, &guest.component(), case);
            let as_expected = match guest {
                Guest::EndlessLoop | Guest::GreedyProduct => {
                    matches!(failure(error, case).1, CallFailure::OutOfFuel { .. })
                }
                Guest::HugeNames => matches!(failure(error, case).1, CallFailure::Other(text) if text.contains("fuel")),
                Guest::MemoryBomb => matches!(failure(error, case).1, CallFailure::Memory { .. }),
                Guest::Recursion => matches!(failure(error, case).1, CallFailure::StackOverflow { .. }),
                Guest::Entangled => matches!(error, SandboxError::Entangled { .. }),
                Guest::Overwriter => matches!(error, SandboxError::Trial(StepError::Tampered(_))),
                Guest::NanOutput => matches!(error, SandboxError::Trial(StepError::NotFinite { .. })),
                _ => matches!(error, SandboxError::ForbiddenImport { .. }),
            };
            assert!(as_expected, "{case}");
        }
    });
}

const EXPORTS: [(char, &str); 6] =
    [('A', "describe"), ('B', "plan"), ('C', "reserve"), ('D', "bind"), ('E', "begin"), ('F', "step")];

#[test]
pub fn a_loop_in_any_export_runs_out_of_fuel() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for (trick, export) in EXPORTS {
            let error = refusal(sandbox, &Guest::EndlessExports.with_trick(trick), export);
            let (function, failure) = failure(error, export);
            assert!(matches!(failure, CallFailure::OutOfFuel { .. }), "{export}: {failure}");
            assert_eq!(function, export);
        }
    });
}

#[test]
pub fn a_loop_in_any_export_passes_its_deadline_where_fuel_is_plenty() {
    let limits =
        Limits { call_fuel: 1 << 50, fuel_per_element: 1 << 40, call_deadline_milliseconds: 100, ..Limits::default() };
    let sandbox = stepbox_corpus::sandbox(limits);
    for (trick, export) in EXPORTS {
        let (function, failure) = failure(refusal(&sandbox, &Guest::EndlessExports.with_trick(trick), export), export);
        assert!(matches!(failure, CallFailure::Deadline { .. }), "{export}: {failure}");
        assert_eq!(function, export);
    }
}

#[test]
pub fn what_runs_at_instantiation_has_the_limits_of_a_call() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in ['A', 'B', 'C'] {
            let case = format!("at instantiation: {trick}");
            let error = refusal(sandbox, &Guest::EarlyRiser.with_trick(trick), &case);
            assert_eq!(error.fault(), Fault::Publisher, "{error}");
            // What is refused for having such a function at all was not even run.
            if let SandboxError::Call(error) = error {
                assert_eq!(error.function, "instantiate");
                let as_expected = match trick {
                    'A' => matches!(error.failure, CallFailure::OutOfFuel { .. }),
                    'B' => matches!(error.failure, CallFailure::Trap { .. }),
                    _ => matches!(error.failure, CallFailure::Memory { .. }),
                };
                assert!(as_expected, "{case}: {error}");
            }
        }
    });
}

#[test]
pub fn false_offsets_are_refused() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for (trick, reason) in [
            ('A', "not aligned"),
            ('B', "outside the memory"),
            ('C', "outside the memory"),
            ('D', "outside the memory"),
            ('E', "overlaps"),
            ('F', "overlaps"),
            ('G', "overlaps"),
            ('H', "no room for servers"),
        ] {
            let error = refusal(sandbox, &Guest::FalseOffsets.with_trick(trick), reason);
            assert_eq!(error.fault(), Fault::Publisher, "{error}");
            assert!(error.to_string().contains(reason), "{trick}: {error}");
        }
    });
}

#[test]
pub fn arguments_are_not_written_where_there_is_no_room() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in ['B', 'C', 'E', 'F', 'G'] {
            let component = Guest::FalseAllocator.with_trick(trick);
            let (_, failure) = failure(refusal(sandbox, &component, "a false allocator"), "a false allocator");
            match trick {
                'E' => assert!(matches!(failure, CallFailure::Trap { .. }), "{failure}"),
                'F' => assert!(matches!(failure, CallFailure::OutOfFuel { .. }), "{failure}"),
                _ => assert!(failure.to_string().contains("realloc"), "{trick}: {failure}"),
            }
        }
        // At the bottom of its own memory: what it breaks there is its own.
        match admit(sandbox, &Guest::FalseAllocator.with_trick('A')) {
            Err(error) => assert_eq!(error.fault(), Fault::Publisher, "{error}"),
            Ok(admitted) => Keys::new(&admitted, &[5000]).step(0, 1).unwrap(),
        }
    });
}

#[test]
pub fn what_runs_after_a_call_has_the_limits_of_the_call() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in ['A', 'B'] {
            let error = refusal(sandbox, &Guest::FalseFarewell.with_trick(trick), "a false farewell");
            let (function, failure) = failure(error, "a false farewell");
            assert_eq!(function, "step");
            let as_expected = match trick {
                'A' => matches!(failure, CallFailure::OutOfFuel { .. }),
                _ => matches!(failure, CallFailure::Trap { .. }),
            };
            assert!(as_expected, "{trick}: {failure}");
        }
        let admitted = admit(sandbox, &Guest::FalseFarewell.with_trick('D')).unwrap();
        Keys::new(&admitted, &[5000]).step(0, 1).unwrap();
    });
}

#[test]
pub fn huge_strings_do_not_cross() {
    beside_an_honest_one(generous(), |sandbox| {
        for trick in ('A'..='N').filter(|trick| *trick != 'O') {
            let error = refusal(sandbox, &Guest::HugeStrings.with_trick(trick), &trick.to_string());
            let (_, failure) = failure(error, &trick.to_string());
            assert!(matches!(&failure, CallFailure::Other(text) if text.contains("fuel")), "{trick}: {failure}");
        }
    });
}

#[test]
pub fn a_name_is_fit_for_a_terminal() {
    let text = match stepbox_corpus::sandbox(Limits::default()).admit(&Guest::HugeStrings.with_trick('O')) {
        Ok(admitted) => admitted.description().name.clone(),
        Err(error) => error.to_string(),
    };
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

#[test]
pub fn plans_that_cannot_be_counted_or_placed_are_refused() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in 'A'..='N' {
            let error = refusal(sandbox, &Guest::OverflowingPlan.with_trick(trick), &trick.to_string());
            let by_size = matches!(trick, 'G' | 'H');
            let as_expected = match error {
                SandboxError::Plan { .. } => !by_size,
                SandboxError::SliceTooLarge { .. } => by_size,
                _ => false,
            };
            assert!(as_expected, "{trick}: {error}");
        }
    });
}

#[test]
pub fn what_an_optimizer_says_of_itself_is_what_it_said_first() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in ['A', 'B'] {
            let admitted = admit(sandbox, &Guest::Turncoat.with_trick(trick)).unwrap();
            assert_eq!(admitted.description().name, "hostile");
            let mut keys = Keys::new(&admitted, &[5000, 5000]);
            for round in 1..4 {
                (0..2).for_each(|key| keys.step(key, round).unwrap());
            }
            assert_eq!(keys.state(1).unwrap().len(), 2, "one slot, of the name it had at first");
        }
        let error = refusal(sandbox, &Guest::Turncoat.with_trick('D'), "a number that is none");
        assert!(error.to_string().contains("no such slice"), "{error}");
    });
}
