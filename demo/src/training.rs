//! How the digits are learnt: which examples a worker takes in a round, and the whole run once more without a server.

use optimizer_adamw::AdamW;
use stepbox_guest::{Native, Tensor};

use crate::dataset::Examples;
use crate::mlp::{KEYS, Parameters};
use crate::random::Stream;

/// Learning rate that reaches 96 % with [`ROUNDS`] and [`BATCH`] and AdamW's other hyperparameters at their defaults.
pub const LEARNING_RATE: f64 = 5e-3;

/// Rounds of the demo.
pub const ROUNDS: u64 = 600;

/// Examples each worker takes in a round.
pub const BATCH: usize = 32;

/// Seed of the batches. Any would do.
const SEED: u64 = 64;

/// The examples that the worker of this rank takes in this round, as places in its shard of `examples` examples: drawn
/// with replacement, the same whenever and wherever they are drawn.
pub fn batch(rank: u32, round: u64, size: usize, examples: usize) -> Vec<usize> {
    let stream = Stream::new(SEED).branch(u64::from(rank)).branch(round);
    (0..size as u64).map(|position| stream.below(position, examples)).collect()
}

/// A run of `workers` workers through a server, in this process and without either: the same batches, the mean in order
/// of rank, and the optimizer's own code run natively. A server's weights must have the same bits.
///
/// # Panics
/// If there are no workers, or more than examples.
pub fn run_natively(
    training: &Examples,
    workers: u32,
    rounds: u64,
    batch_size: usize,
    learning_rate: f64,
) -> Parameters {
    let shards: Vec<Examples> = (0..workers).map(|rank| training.shard(rank as usize, workers as usize)).collect();
    let mut parameters = Parameters::initial();
    let mut tensors: Vec<Native<AdamW>> = KEYS
        .iter()
        .zip(&parameters.0)
        .map(|(key, values)| {
            let tensor = Tensor { name: key.name.into(), shape: key.shape.into(), ..Tensor::default() };
            Native::of_tensor(AdamW::default(), tensor, values.clone())
        })
        .collect();
    for round in 1..=rounds {
        let gradients: Vec<Parameters> = (0..)
            .zip(&shards)
            .map(|(rank, shard)| {
                let indices = batch(rank, round, batch_size, shard.len());
                parameters.loss_and_gradient(shard, &indices).1
            })
            .collect();
        for (index, tensor) in tensors.iter_mut().enumerate() {
            let gradients: Vec<Vec<u8>> = gradients.iter().map(|gradient| bytes(&gradient.0[index])).collect();
            let gradients: Vec<&[u8]> = gradients.iter().map(Vec::as_slice).collect();
            let mut mean = vec![0.0; KEYS[index].elements()];
            stepbox_reduce::mean_into(&gradients, &mut mean).expect("there are workers, and all have the same network");
            tensor.round(learning_rate as f32, &mean);
            parameters.0[index].copy_from_slice(tensor.parameters());
        }
    }
    parameters
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Digits;
    use crate::digest::weights_digest;

    #[test]
    fn four_workers_learn_to_read_held_out_digits() {
        let digits = Digits::load().unwrap();
        let parameters = run_natively(&digits.training, 4, ROUNDS, BATCH, LEARNING_RATE);
        let accuracy = parameters.accuracy(&digits.held_out);
        assert!(accuracy >= 0.96, "{accuracy}");
    }

    #[test]
    fn a_run_repeats_to_the_bit() {
        let training = Digits::load().unwrap().training;
        let run = || weights_digest(&run_natively(&training, 3, 10, 8, 1e-2));
        assert_eq!(run(), run());
        assert_ne!(run(), weights_digest(&run_natively(&training, 2, 10, 8, 1e-2)));
    }

    #[test]
    fn batches_differ_by_round_and_rank_and_stay_in_the_shard() {
        assert_eq!(batch(1, 2, 32, 360), batch(1, 2, 32, 360));
        assert_ne!(batch(1, 2, 32, 360), batch(1, 3, 32, 360));
        assert_ne!(batch(1, 2, 32, 360), batch(2, 2, 32, 360));
        assert!((0..100).flat_map(|round| batch(0, round, 32, 7)).all(|index| index < 7));
    }
}
