//! Guests that never reach a key: they are refused while they are described, planned, placed or run in the trial.

use stepbox_corpus::{Guest, Keys, beside_an_honest_one, surgery};
use stepbox_sandbox::{
    AdmittedComponent, CallFailure, Fault, Forbidden, Limits, ProductError, Sandbox, SandboxError, StepError,
};

/// Limits with enough fuel to write several MiB of text.
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
            // A plan may also exceed what the operator allows.
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

pub fn a_trial_is_not_told_by_its_tensors_names() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let case = "a loop for tensors that are not the trial's";
        let (function, failure) = failure(refusal(sandbox, &Guest::EndlessExports.with_trick('L'), case), case);
        assert!(matches!(failure, CallFailure::OutOfFuel { .. }), "{failure}");
        assert_eq!(function, "step");
    });
}

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

pub fn what_would_run_at_instantiation_is_refused() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in ['A', 'B', 'C'] {
            let case = format!("at instantiation: {trick}");
            // Component tools call it from a start function: such a component is not even compiled.
            let error = refusal(sandbox, &Guest::EarlyRiser.with_trick(trick), &case);
            assert!(matches!(error, SandboxError::Forbidden(Forbidden::StartFunction { .. })), "{case}: {error}");
        }
    });
}

/// An optimizer that counts its calls depends on what else is in its instance.
pub fn hidden_state_is_found_in_the_trial() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let error = refusal(sandbox, &Guest::Turncoat.with_trick('E'), "hidden state");
        assert!(matches!(error, SandboxError::Entangled { .. }), "{error}");
    });
}

pub fn a_product_of_nothing_is_paid_for_and_stays_in_the_memory() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in ['A', 'B', 'C'] {
            let case = format!("an empty product: {trick}");
            let error = refusal(sandbox, &Guest::EmptyProduct.with_trick(trick), &case);
            let (function, failure) = failure(error, &case);
            assert_eq!(function, "step");
            let as_expected = match trick {
                'C' => matches!(failure, CallFailure::OutOfFuel { .. }),
                _ => failure == CallFailure::Product(ProductError::Place { which: "product" }),
            };
            assert!(as_expected, "{case}: {failure}");
        }
    });
}

pub fn tables_have_a_limit_in_number_and_in_elements() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let component = Guest::TableCreeper.component();
        let growing = surgery::with_growing_table(component.clone());
        let (function, failure) = failure(refusal(sandbox, &growing, "a growing table"), "a growing table");
        assert_eq!(function, "step");
        let CallFailure::Table { asked, allowed } = failure else { panic!("{failure}") };
        assert!(asked > allowed && allowed == Limits::default().table_elements, "{asked} of {allowed}");

        let error = refusal(sandbox, &surgery::with_tables(&component, 100, 1), "many tables");
        assert!(matches!(error, SandboxError::Forbidden(Forbidden::TooMany { limit: "tables", .. })), "{error}");
        let error = refusal(sandbox, &surgery::with_tables(&component, 1, 1 << 20), "a large table");
        assert!(matches!(error, SandboxError::Oversized { declared, .. } if declared == 1 << 20), "{error}");
        // The same number of elements in several tables.
        let error = refusal(sandbox, &surgery::with_tables(&component, 2, 60_000), "large tables together");
        let (function, failure) = self::failure(error, "large tables together");
        assert!(function == "instantiate" && matches!(failure, CallFailure::Table { .. }), "{function}: {failure}");
    });
}

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
        // At the bottom of the guest's memory: it damages only its own data.
        match admit(sandbox, &Guest::FalseAllocator.with_trick('A')) {
            Err(error) => assert_eq!(error.fault(), Fault::Publisher, "{error}"),
            Ok(admitted) => Keys::new(&admitted, &[5000]).step(0, 1).unwrap(),
        }
    });
}

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

pub fn huge_strings_do_not_cross() {
    beside_an_honest_one(generous(), |sandbox| {
        for trick in ('A'..='N').filter(|trick| *trick != 'O') {
            let error = refusal(sandbox, &Guest::HugeStrings.with_trick(trick), &trick.to_string());
            let (_, failure) = failure(error, &trick.to_string());
            assert!(matches!(&failure, CallFailure::Other(text) if text.contains("fuel")), "{trick}: {failure}");
        }
    });
}

pub fn a_name_is_fit_for_a_terminal() {
    let admitted = stepbox_corpus::sandbox(Limits::default()).admit(&Guest::HugeStrings.with_trick('O'));
    let Err(error) = admitted else { panic!("such a name was admitted") };
    // No escape sequence, no newline, and nothing that changes the writing direction.
    assert!(error.to_string().contains("\"evil[2Jname\""), "{error}");
}

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

pub fn what_an_optimizer_says_of_itself_is_what_it_said_first() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in ['A', 'B'] {
            let admitted = admit(sandbox, &Guest::Turncoat.with_trick(trick)).unwrap();
            assert_eq!(admitted.description().name, "hostile");
            let mut keys = Keys::new(&admitted, &[5000, 5000]);
            for round in 1..4 {
                (0..2).for_each(|key| keys.step(key, round).unwrap());
            }
            assert_eq!(keys.state(1).unwrap().len(), 2, "one slot, with the name of the first plan");
        }
        let error = refusal(sandbox, &Guest::Turncoat.with_trick('D'), "an invalid slice number");
        assert!(error.to_string().contains("no such slice"), "{error}");
    });
}
