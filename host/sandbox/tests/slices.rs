//! The cuts of a tensor, and the number of instances that hold it, do not affect results.

mod common;

use std::sync::Arc;

use common::{Training, component, sandbox, values};
use stepbox_sandbox::Limits;

const ELEMENTS: usize = 3 * 4096 + 37;

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
    // Memory for one slice and its gradients, but not for two.
    let small = Limits { instance_memory_bytes: overhead + (1 << 20) + (16 << 10), ..Limits::default() };
    const SLICE: usize = 1 << 16;
    let parameters = values(3 * SLICE, 0);
    let outcomes = [Limits::default(), small].map(|limits| {
        let admitted = sandbox(limits).admit(&component("adamw")).unwrap();
        let settings = admitted.configure(Some(0.003), &[]).unwrap();
        let mut pool = admitted.pool();
        let tensor = common::vector(parameters.len());
        let plan = Arc::new(admitted.plan(&settings, &tensor).unwrap());
        let slices: Vec<_> = (0..3)
            .map(|index| {
                let slice = pool.bind(&tensor, &plan, &settings, (index * SLICE) as u64, SLICE as u32).unwrap();
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
