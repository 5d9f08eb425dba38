//! The way in which a tensor is cut into slices and blocks does not affect a single bit of the result, for any shipped
//! optimizer.

use stepbox_optimizer_tests::{admit, bits, context, shipped, values};
use stepbox_sandbox::{Limits, LocalTensor, LocalTraining, TensorDescription};

/// A matrix whose rows do not end at chunks (both sides long enough for Adafactor to factor it), a vector whose length
/// is not a multiple of a chunk, and a matrix and a vector of less than one chunk.
const SHAPES: [&[u64]; 4] = [&[150, 133], &[9001], &[24, 40], &[5]];

const ROUNDS: u64 = 12;

#[test]
fn results_do_not_depend_on_slices_or_blocks() {
    for name in shipped() {
        let outcomes: Vec<_> = [(1 << 20, 1 << 18), (4096, 4096), (8192, 4096), (1 << 20, 8192)]
            .into_iter()
            .map(|(slice_elements, block_elements)| {
                ((slice_elements, block_elements), trained(&name, slice_elements, block_elements))
            })
            .collect();
        for (cut, outcome) in &outcomes[1..] {
            assert!(*outcome == outcomes[0].1, "{name}: slices and blocks of {cut:?} change the bits");
        }
        let first: Vec<_> = (0..SHAPES.len()).map(|index| bits(&first_parameters(index))).collect();
        for (index, tensor) in outcomes[0].1.iter().enumerate() {
            assert!(tensor[0] != first[index], "{name}: {:?} has not moved", SHAPES[index]);
        }
    }
}

fn first_parameters(tensor: usize) -> Vec<f32> {
    values(SHAPES[tensor].iter().product::<u64>() as usize, 1000 + tensor as u32)
}

/// Parameters and evaluation weights of each tensor after several rounds.
fn trained(name: &str, slice_elements: u64, block_elements: u32) -> Vec<[Vec<u32>; 2]> {
    let component = admit(name, Limits { block_elements, ..Limits::default() });
    let settings = component.configure(None, &[]).expect("defaults are acceptable");
    let rate = settings.learning_rate();
    let tensor = |index: usize| LocalTensor {
        description: TensorDescription {
            name: format!("tensor{index}"),
            shape: SHAPES[index].to_vec(),
            // An order other than that of the list.
            identity: 100 - index as u64,
            ..TensorDescription::default()
        },
        settings: settings.clone(),
        parameters: first_parameters(index),
    };
    let tensors = (0..SHAPES.len()).map(tensor).collect();
    let mut training =
        LocalTraining::new(&component, tensors, slice_elements).unwrap_or_else(|error| panic!("{name}: {error}"));
    for round in 1..=ROUNDS {
        let gradients: Vec<Vec<f32>> = (0..SHAPES.len())
            .map(|index| values(first_parameters(index).len(), 64 * round as u32 + index as u32))
            .collect();
        let gradients: Vec<_> = gradients.iter().map(Vec::as_slice).collect();
        training.round(&context(round, rate), &gradients).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let last = context(ROUNDS, rate);
    (0..SHAPES.len())
        .map(|index| {
            let parameters = training.parameters(index).expect("the memory is there");
            let evaluation = training.evaluation(index, &last).expect("evaluation weights");
            [bits(&parameters), bits(&evaluation)]
        })
        .collect()
}
