//! Each limit, violated by a guest made for it, results in a distinct error.

mod common;

use std::sync::Arc;

use common::{admit, component, sandbox, values};
use stepbox_sandbox::{CallFailure, Fault, Limits, Sandbox, SandboxConfig, SandboxError, StepError, TensorDescription};

/// The call failure for which a component is refused in its trial run.
fn failure(error: SandboxError) -> CallFailure {
    assert_eq!(error.fault(), Fault::Publisher, "{error}");
    match error {
        SandboxError::Call(error) | SandboxError::Trial(StepError::Call(error)) => error.failure,
        other => panic!("a different error: {other}"),
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
    // Less than one instance of the trial needs, but more than its code.
    let error = refusal("adamw", Limits { total_memory_bytes: 5 << 18, ..Limits::default() });
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
        // After each trap, the instance is recreated with its previous state.
        let error = training.round(&values(10_000, 10)).unwrap_err();
        let StepError::Call(error) = &error else { panic!("{error}") };
        assert_eq!(error.function, "step");
        let CallFailure::Trap { wasm_function, .. } = &error.failure else { panic!("{error}") };
        assert!(wasm_function.contains("panic") || wasm_function.contains("step"), "{wasm_function}");
        assert_eq!(training.state(), before);
    }
}

/// One slice has completed its step and waits for the other slice in the same instance. That one traps in a later
/// block, or before its first block, after it has written elsewhere in its slice.
#[test]
fn a_step_that_fails_far_from_its_blocks_leaves_no_trace_either() {
    // So small that the parameter that the guest looks for does not change.
    const RATE: f64 = 1e-30;
    for (guest, poison) in [("hostile/scribbler", 4242.5), ("hostile/slow-poison", 2e9)] {
        let limits = Limits { block_elements: 4096, ..Limits::default() };
        let admitted = sandbox(limits).admit(&component(guest)).unwrap();
        let settings = admitted.configure(Some(RATE), &[]).unwrap();
        let mut pool = admitted.pool();
        let tensor = common::vector(30_000);
        let plan = Arc::new(admitted.plan(&settings, &tensor).unwrap());
        let mut parameters = values(30_000, 0);
        parameters[29_000] = poison;
        let halves = [0..16_384, 16_384..30_000];
        let [sound, poisoned] = halves.clone().map(|half| {
            let slice = pool.bind(&tensor, &plan, &settings, half.start as u64, half.len() as u32).unwrap();
            pool.load(slice, &common::bytes(&parameters[half])).unwrap();
            slice
        });
        assert_eq!(pool.instances(), 1);
        let step = |pool: &mut stepbox_sandbox::InstancePool, slice, round: u32| {
            let gradient = values(30_000, round);
            let mut source =
                |range: std::ops::Range<usize>, target: &mut [f32]| target.copy_from_slice(&gradient[range]);
            pool.step(slice, &common::context(round.into(), RATE), &mut source)
        };
        let state = |pool: &stepbox_sandbox::InstancePool| {
            let mut state = Vec::new();
            for (slice, half) in [sound, poisoned].into_iter().zip(halves.clone()) {
                let mut parameters = vec![0; half.len() * 4];
                pool.read_parameters(slice, &mut parameters).unwrap();
                state.push((parameters, pool.read_slot(slice, "velocity").unwrap().unwrap().to_vec()));
            }
            state
        };
        for round in 1..10 {
            for slice in [sound, poisoned] {
                step(&mut pool, slice, round).unwrap();
                pool.commit(slice);
            }
        }
        let before = state(&pool);
        for _ in 0..2 {
            // The scribbler would find the other slice's parameter from here too, so the sound slice steps as in round
            // 9.
            step(&mut pool, sound, 9).unwrap();
            assert_ne!(state(&pool), before, "the sound slice has stepped");
            let error = step(&mut pool, poisoned, 10).unwrap_err();
            assert!(
                matches!(&error, StepError::Call(error) if matches!(error.failure, CallFailure::Trap { .. })),
                "{error}"
            );
            pool.roll_back(sound);
            assert_eq!(state(&pool), before, "{guest}");
        }
    }
}

#[test]
fn a_slice_that_is_released_gives_its_room_back_and_the_others_keep_their_values() {
    let sandbox = sandbox(Limits { total_memory_bytes: 80 << 20, ..Limits::default() });
    let admitted = sandbox.admit(&component("sgd")).unwrap();
    let settings = admitted.configure(None, &[]).unwrap();
    let mut training = common::Training::new(&admitted, settings, &values(5000, 0));
    training.round(&values(5000, 1)).unwrap();
    let before = training.state();
    const LARGE: u32 = 4 << 20;
    let tensor = common::vector(LARGE as usize);
    let plan = Arc::new(admitted.plan(&training.settings, &tensor).unwrap());
    for _ in 0..4 {
        // 32 MiB each: two at a time would exceed the total.
        let slice = training.pool.bind(&tensor, &plan, &training.settings, 0, LARGE).unwrap();
        assert!(training.pool.bind(&tensor, &plan, &training.settings, 0, 2 * LARGE).is_err());
        training.pool.release(slice);
        assert_eq!(training.state(), before);
        training.round(&values(5000, 2)).unwrap();
        training.pool.roll_back(training.slice);
        assert_eq!(training.state(), before);
    }
}

#[test]
fn what_the_server_keeps_for_rows_is_of_the_same_memory_and_given_back() {
    const ROWS: u32 = 1 << 20;
    // The optimizer's memory holds 4 MiB of parameters, 4 MiB of a slot and another 4 MiB; the seals outside it take 16
    // MiB.
    let bind = |total_memory_bytes| {
        let admitted = sandbox(Limits { total_memory_bytes, ..Limits::default() }).admit(&component("rowwise-adagrad"));
        let admitted = admitted.unwrap();
        let settings = admitted.configure(None, &[]).unwrap();
        let tensor = TensorDescription { shape: vec![ROWS.into(), 1], ..common::vector(0) };
        let plan = Arc::new(admitted.plan(&settings, &tensor).unwrap());
        let mut pool = admitted.pool();
        let bound = pool.bind(&tensor, &plan, &settings, 0, ROWS);
        if let Ok(slice) = &bound {
            pool.release(*slice);
            pool.bind(&tensor, &plan, &settings, 0, ROWS).expect("the same amount, after it was released");
        }
        bound.map(|_| ())
    };
    bind(36 << 20).unwrap();
    let error = bind(20 << 20).unwrap_err();
    assert_eq!(error.fault(), Fault::Operator);
    assert!(error.to_string().contains("total_memory_bytes"), "{error}");
}

/// The memory of an instance that trapped and the memory of its successor exist at the same time.
#[test]
fn an_instance_is_set_up_again_also_where_there_is_no_memory_for_two() {
    const ELEMENTS: usize = 2 << 20;
    // Slightly more than 16 MiB for each of two tensors, but not for three.
    let sandbox = sandbox(Limits { total_memory_bytes: 48 << 20, ..Limits::default() });
    let admitted = |name| sandbox.admit(&component(name)).unwrap();
    let training = |name, parameters: &[f32]| {
        let admitted = admitted(name);
        common::Training::new(&admitted, admitted.configure(None, &[]).unwrap(), parameters)
    };
    let mut parameters = values(ELEMENTS, 0);
    parameters[7_000] = 2e9;
    let mut poisoned = training("hostile/slow-poison", &parameters);
    let mut neighbour = training("sgd", &values(ELEMENTS, 0));
    (1..10).for_each(|round| poisoned.round(&values(ELEMENTS, round)).unwrap());
    let before = poisoned.state();
    assert!(matches!(poisoned.round(&values(ELEMENTS, 10)), Err(StepError::Call(_))));
    // The recreated instance traps again; the memory that is briefly allocated twice is released each time.
    for _ in 0..3 {
        assert!(matches!(poisoned.round(&values(ELEMENTS, 10)), Err(StepError::Call(_))));
        assert_eq!(poisoned.state(), before);
    }
    neighbour.round(&values(ELEMENTS, 1)).unwrap();
    // A new optimizer gets no memory beyond the total.
    let third = admitted("sgd");
    let tensor =
        TensorDescription { name: "third".into(), shape: vec![ELEMENTS as u64], ..TensorDescription::default() };
    let settings = third.configure(None, &[]).unwrap();
    let plan = Arc::new(third.plan(&settings, &tensor).unwrap());
    let error = third.pool().bind(&tensor, &plan, &settings, 0, ELEMENTS as u32).unwrap_err();
    assert!(error.to_string().contains("total_memory_bytes"), "{error}");
}

#[test]
fn gradients_whose_sum_is_infinite_are_the_workers_fault_and_leave_no_trace() {
    let admitted = admit("adamw").unwrap();
    let settings = admitted.configure(None, &[]).unwrap();
    let mut training = common::Training::new(&admitted, settings, &[1.0; 100]);
    let before = training.state();
    let error = training.round(&[f32::INFINITY; 100]).unwrap_err();
    assert_eq!(error, StepError::GradientNotFinite { index: 0, value: f32::INFINITY });
    assert_eq!(error.fault(), Fault::Worker);
    assert_eq!(training.state(), before);
}

#[test]
fn a_slot_that_overflows_is_refused_before_it_freezes_its_parameter() {
    let admitted = admit("adamw").unwrap();
    let settings = admitted.configure(None, &[]).unwrap();
    let mut training = common::Training::new(&admitted, settings, &[1.0; 100]);
    let before = training.state();
    let error = training.round(&[1e30; 100]).unwrap_err();
    assert!(error.to_string().contains("slot variance"), "{error}");
    assert_eq!(training.state(), before);
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
fn limits_out_of_range_are_refused_by_name() {
    let fuel = Limits { call_fuel: 0, ..Limits::default() };
    let stack = Limits { stack_bytes: 2 << 20, ..Limits::default() };
    let block = Limits { block_elements: u32::MAX, ..Limits::default() };
    for (limits, name) in [(fuel, "call_fuel"), (stack, "stack_bytes"), (block, "block_elements")] {
        let error = Sandbox::new(SandboxConfig { limits, ..SandboxConfig::default() }).err().unwrap();
        assert!(error.to_string().contains(&format!("sandbox.limits.{name}")), "{error}");
    }
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
        assert!(matches!(error, SandboxError::Forbidden(_) | SandboxError::NoContract { .. }), "{error}");
    }
}

#[test]
fn a_product_that_is_not_paid_for_is_not_computed() {
    let failure = failure(refusal("hostile/greedy-product", Limits::default()));
    assert!(matches!(failure, CallFailure::OutOfFuel { .. }), "{failure}");
}

#[test]
fn a_product_ends_at_its_deadline_where_fuel_is_plenty() {
    // Seventeen billion multiplications in one call of the server's function, without a loop in the guest.
    let limits = Limits { fuel_per_element: 1 << 40, whole_tensor_deadline_milliseconds: 10, ..Limits::default() };
    let failure = failure(refusal("hostile/greedy-product", limits));
    assert_eq!(failure, CallFailure::Deadline { milliseconds: 10 });
}

#[test]
fn a_tensor_that_ends_differently_beside_another_is_refused() {
    let error = refusal("hostile/entangled", Limits::default());
    assert_eq!(error.fault(), Fault::Publisher);
    assert!(matches!(error, SandboxError::Entangled { .. }), "{error}");
}

#[test]
fn an_optimizer_that_changes_another_tensor_is_refused() {
    let error = refusal("hostile/overwriter", Limits::default());
    assert_eq!(error.fault(), Fault::Publisher);
    assert!(matches!(error, SandboxError::Trial(StepError::Tampered(_))), "{error}");
}
