//! Each limit, violated by a guest that is made for it, ends in an error of its own.

mod common;

use common::{admit, component, sandbox, values};
use stepbox_sandbox::{CallFailure, Fault, Limits, Sandbox, SandboxConfig, SandboxError, StepError};

/// How a component that is refused in its trial run failed.
fn failure(error: SandboxError) -> CallFailure {
    assert_eq!(error.fault(), Fault::Publisher, "{error}");
    match error {
        SandboxError::Call(error) | SandboxError::Trial(StepError::Call(error)) => error.failure,
        other => panic!("another error: {other}"),
    }
}

fn refusal(name: &str, limits: Limits) -> SandboxError {
    match sandbox(limits).admit(&component(name)) {
        Ok(_) => panic!("{name} was admitted"),
        Err(error) => error,
    }
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let failure = failure(refusal("hostile/endless-loop", Limits::default()));
    assert!(matches!(failure, CallFailure::OutOfFuel { .. }), "{failure}");
}

#[test]
fn an_endless_loop_with_plenty_of_fuel_passes_its_deadline() {
    let limits = Limits { fuel_per_element: 1 << 40, call_deadline_milliseconds: 50, ..Limits::default() };
    let failure = failure(refusal("hostile/endless-loop", limits));
    assert_eq!(failure, CallFailure::Deadline { milliseconds: 50 });
}

#[test]
fn a_memory_bomb_meets_the_memory_limit() {
    let failure = failure(refusal("hostile/memory-bomb", Limits::default()));
    assert!(matches!(failure, CallFailure::Memory { .. }), "{failure}");
}

#[test]
fn all_instances_together_have_a_limit_too() {
    let limits = Limits { total_memory_bytes: 1 << 20, ..Limits::default() };
    let error = refusal("adamw", limits);
    assert_eq!(error.fault(), Fault::Operator);
    assert!(error.to_string().contains("total_memory_bytes"), "{error}");
}

#[test]
fn endless_recursion_overflows_its_own_stack_and_names_the_function() {
    let failure = failure(refusal("hostile/recursion", Limits::default()));
    let CallFailure::StackOverflow { wasm_function } = &failure else { panic!("{failure}") };
    assert!(wasm_function.contains("depth"), "{wasm_function}");
}

#[test]
fn nan_output_is_refused() {
    let error = refusal("hostile/nan-output", Limits::default());
    assert!(matches!(error, SandboxError::Trial(StepError::NotFinite { index: 0, .. })), "{error}");
}

#[test]
fn a_trap_names_the_function_and_leaves_no_trace() {
    let admitted = admit("hostile/slow-poison").unwrap();
    let settings = admitted.configure(None, &[]).unwrap();
    let mut parameters = values(10_000, 0);
    parameters[7_000] = 2e9;
    let mut training = common::Training::new(&admitted, settings, &parameters);
    for round in 1..10 {
        training.round(&values(10_000, round)).unwrap();
    }
    let before = training.state();
    for _ in 0..3 {
        // The instance is set up anew after each trap, with the state it had.
        let error = training.round(&values(10_000, 10)).unwrap_err();
        let StepError::Call(error) = &error else { panic!("{error}") };
        assert_eq!(error.function, "step");
        let CallFailure::Trap { wasm_function, .. } = &error.failure else { panic!("{error}") };
        assert!(wasm_function.contains("panic") || wasm_function.contains("step"), "{wasm_function}");
        assert_eq!(training.state(), before);
    }
}

#[test]
fn a_failure_ends_nothing_but_the_failed_pool() {
    let sandbox = sandbox(Limits::default());
    let admitted = sandbox.admit(&component("sgd")).unwrap();
    let settings = admitted.configure(None, &[]).unwrap();
    let mut training = common::Training::new(&admitted, settings, &[1.0; 100]);
    assert!(sandbox.admit(&component("hostile/recursion")).is_err());
    assert!(sandbox.admit(&component("hostile/memory-bomb")).is_err());
    training.round(&[0.5; 100]).unwrap();
}

#[test]
fn a_table_beyond_the_limit_is_refused() {
    let limits = Limits { table_elements: 1, ..Limits::default() };
    assert!(matches!(refusal("adamw", limits), SandboxError::Oversized { what: "an initial table of", .. }));
}

#[test]
fn results_that_are_too_large_to_take_are_refused() {
    let limits = Limits { call_fuel: 1 << 30, ..Limits::default() };
    let failure = failure(refusal("hostile/huge-names", limits));
    assert!(matches!(&failure, CallFailure::Other(text) if text.contains("fuel")), "{failure}");
}

#[test]
fn a_limit_of_zero_is_refused_by_name() {
    let config = SandboxConfig { limits: Limits { call_fuel: 0, ..Limits::default() }, ..SandboxConfig::default() };
    let error = Sandbox::new(config).err().unwrap();
    assert!(error.to_string().contains("sandbox.limits.call_fuel"), "{error}");
}

#[test]
fn an_import_that_is_not_on_the_list_is_refused_by_name() {
    let error = refusal("hostile/forbidden-import", Limits::default());
    let SandboxError::ForbiddenImport { import, hint } = &error else { panic!("{error}") };
    assert_eq!((import.as_str(), *hint), ("hostile:host/files", ""));
    assert_eq!(error.fault(), Fault::Publisher);
}

#[test]
fn what_is_no_component_is_refused() {
    let sandbox = sandbox(Limits::default());
    for bytes in [&b""[..], b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0", &component("adamw")[..5000]] {
        let error = sandbox.admit(bytes).err().unwrap();
        assert!(matches!(error, SandboxError::Invalid(_) | SandboxError::NoContract { .. }), "{error}");
    }
}
