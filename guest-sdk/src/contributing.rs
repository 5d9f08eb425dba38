//! The loop of updates that also contribute to accumulators.

use crate::elementwise::{LANES, UNROLLED_ELEMENTS};

/// Runs `body` for every element; it returns the new parameter, the new state and the contributions. All runs must have
/// equal length.
///
/// The structure is that of the loop in `elementwise`, where comments explain it.
#[inline(always)]
pub(crate) fn visit<const N: usize, const A: usize>(
    parameters: &mut [f32],
    gradient: &[f32],
    slots: &mut [&mut [f32]; N],
    contributions: &mut [&mut [f32]; A],
    body: impl Fn(f32, f32, [f32; N]) -> (f32, [f32; N], [f32; A]),
) {
    let (parameters, parameters_rest) = parameters.as_chunks_mut::<UNROLLED_ELEMENTS>();
    let (gradients, gradient_rest) = gradient.as_chunks::<UNROLLED_ELEMENTS>();
    let mut slots = slots.each_mut().map(|slot| slot.as_chunks_mut::<UNROLLED_ELEMENTS>());
    let mut contributions = contributions.each_mut().map(|run| run.as_chunks_mut::<UNROLLED_ELEMENTS>());
    let blocks = parameters.len();
    assert!(gradients.len() == blocks && slots.iter().all(|slot| slot.0.len() == blocks), "runs differ in length");
    assert!(contributions.iter().all(|run| run.0.len() == blocks), "runs differ in length");

    for index in 0..blocks {
        let parameters = &mut parameters[index];
        let gradient = &gradients[index];
        let mut group = |group: usize| {
            let lanes = group * LANES..(group + 1) * LANES;
            let mut parameter = [0.0; LANES];
            parameter.copy_from_slice(&parameters[lanes.clone()]);
            let mut state = [[0.0; LANES]; N];
            for slot in 0..N {
                state[slot].copy_from_slice(&slots[slot].0[index][lanes.clone()]);
            }
            let mut contribution = [[0.0; LANES]; A];
            for lane in 0..LANES {
                let (new_parameter, new_state, given) =
                    body(parameter[lane], gradient[lanes.start + lane], std::array::from_fn(|slot| state[slot][lane]));
                parameter[lane] = new_parameter;
                for slot in 0..N {
                    state[slot][lane] = new_state[slot];
                }
                for run in 0..A {
                    contribution[run][lane] = given[run];
                }
            }
            parameters[lanes.clone()].copy_from_slice(&parameter);
            for slot in 0..N {
                slots[slot].0[index][lanes.clone()].copy_from_slice(&state[slot]);
            }
            for run in 0..A {
                contributions[run].0[index][lanes.clone()].copy_from_slice(&contribution[run]);
            }
        };
        group(0);
        if cfg!(target_arch = "wasm32") {
            group(1);
            group(2);
            group(3);
            group(4);
            group(5);
            group(6);
            group(7);
        }
    }

    for index in 0..parameters_rest.len() {
        let (new_parameter, new_state, given) =
            body(parameters_rest[index], gradient_rest[index], std::array::from_fn(|slot| slots[slot].1[index]));
        parameters_rest[index] = new_parameter;
        for slot in 0..N {
            slots[slot].1[index] = new_state[slot];
        }
        for run in 0..A {
            contributions[run].1[index] = given[run];
        }
    }
}
