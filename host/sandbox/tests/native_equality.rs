//! A component's result is bit for bit that of the same code run natively, over 200 rounds, whatever the block size.

mod common;

use common::{Training, bits, component, sandbox, values};
use stepbox_guest::{Elementwise, Native};
use stepbox_sandbox::Limits;

const ROUNDS: u32 = 200;
const ELEMENTS: usize = 3 * 4096 + 37;

fn same_bits<O: Elementwise + Copy>(component_name: &str, optimizer: O, given: &[(&str, &str)]) {
    let given: Vec<_> = given.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    for block_elements in [4096, 8192, 1 << 18] {
        let sandbox = sandbox(Limits { block_elements, ..Limits::default() });
        let admitted = sandbox.admit(&component(component_name)).unwrap();
        let settings = admitted.configure(Some(0.003), &given).unwrap();
        let parameters = values(ELEMENTS, 0);
        let mut sandboxed = Training::new(&admitted, settings, &parameters);
        let mut native = Native::new(optimizer, parameters);
        for round in 1..=ROUNDS {
            // The second half has gradients near the bottom of the range, where epsilons and denormals matter.
            let scale = if round > ROUNDS / 2 { 1e-6 } else { 1.0 };
            let gradient: Vec<f32> = values(ELEMENTS, round).iter().map(|value| value * scale).collect();
            sandboxed.round(&gradient).unwrap();
            native.round(0.003, &gradient);
        }
        let state = sandboxed.state();
        assert_eq!(state[0], bits(native.parameters()), "{component_name}: parameters, blocks of {block_elements}");
        assert_eq!(state.len(), sandboxed.plan.slots.len() + 1);
        for (slot, sandboxed) in sandboxed.plan.slots.iter().zip(&state[1..]) {
            assert_eq!(*sandboxed, bits(native.slot(&slot.name).unwrap()), "{component_name}: slot {}", slot.name);
        }
    }
}

#[test]
fn adamw() {
    same_bits("adamw", optimizer_adamw::AdamW::default(), &[]);
    let tuned = optimizer_adamw::AdamW { beta1: 0.8, beta2: 0.95, epsilon: 1e-6, weight_decay: 0.1 };
    same_bits("adamw", tuned, &[("beta1", "0.8"), ("beta2", "0.95"), ("epsilon", "1e-6"), ("weight_decay", "0.1")]);
}

#[test]
fn sgd() {
    same_bits("sgd", optimizer_sgd::Sgd::default(), &[]);
    let nesterov = optimizer_sgd::Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
    same_bits("sgd", nesterov, &[("momentum", "0.9"), ("nesterov", "true"), ("weight_decay", "1e-4")]);
}

#[test]
fn lion() {
    same_bits("lion", optimizer_lion::Lion { weight_decay: 0.1, ..Default::default() }, &[("weight_decay", "0.1")]);
}

#[test]
fn adagrad() {
    let optimizer =
        optimizer_adagrad::Adagrad { initial_accumulator: 0.1, learning_rate_decay: 0.01, ..Default::default() };
    same_bits("adagrad", optimizer, &[("initial_accumulator", "0.1"), ("learning_rate_decay", "0.01")]);
}

#[test]
fn a_tensor_cut_into_slices_trains_to_the_same_bits() {
    let admitted = sandbox(Limits::default()).admit(&component("adamw")).unwrap();
    let settings = admitted.configure(Some(0.003), &[]).unwrap();
    let parameters = values(ELEMENTS, 0);
    let mut whole = Training::new(&admitted, settings.clone(), &parameters);
    let mut parts = [
        Training::new(&admitted, settings.clone(), &parameters[..8192]),
        Training::new(&admitted, settings, &parameters[8192..]),
    ];
    for round in 1..=10 {
        let gradient = values(ELEMENTS, round);
        whole.round(&gradient).unwrap();
        parts[0].round(&gradient[..8192]).unwrap();
        parts[1].round(&gradient[8192..]).unwrap();
    }
    for (view, whole) in whole.state().iter().enumerate() {
        let joined: Vec<u32> = parts.iter().flat_map(|part| part.state()[view].clone()).collect();
        assert_eq!(*whole, joined);
    }
}

#[test]
fn slices_that_no_longer_fit_an_instance_go_to_another_and_train_the_same() {
    let overhead = Limits::default().guest_overhead_bytes;
    // Room for one slice and its gradients, not for two.
    let small = Limits { instance_memory_bytes: overhead + (1 << 20), ..Limits::default() };
    const SLICE: usize = 1 << 16;
    let parameters = values(3 * SLICE, 0);
    let outcomes = [Limits::default(), small].map(|limits| {
        let admitted = sandbox(limits).admit(&component("adamw")).unwrap();
        let settings = admitted.configure(Some(0.003), &[]).unwrap();
        let mut pool = admitted.pool(&settings);
        let tensor = common::vector(parameters.len());
        let plan = admitted.plan(&settings, &tensor).unwrap();
        let slices: Vec<_> = (0..3)
            .map(|index| {
                let slice = pool.bind(&tensor, &plan, (index * SLICE) as u64, SLICE as u32).unwrap();
                pool.load(slice, &common::bytes(&parameters[index * SLICE..][..SLICE])).unwrap();
                slice
            })
            .collect();
        let mut trained = vec![0; parameters.len() * 4];
        for round in 1..=3 {
            let gradient = values(parameters.len(), round);
            for (index, slice) in slices.iter().enumerate() {
                let gradient = &gradient[index * SLICE..];
                let mut source =
                    |range: std::ops::Range<usize>, target: &mut [f32]| target.copy_from_slice(&gradient[range]);
                pool.step(*slice, &common::context(round.into(), 0.003), &mut source).unwrap();
                pool.commit(*slice);
            }
        }
        for (slice, part) in slices.iter().zip(trained.chunks_mut(SLICE * 4)) {
            pool.read_parameters(*slice, part).unwrap();
        }
        (pool.instances(), trained)
    });
    assert_eq!((outcomes[0].0, outcomes[1].0), (1, 3));
    assert_eq!(outcomes[0].1, outcomes[1].1);
}
