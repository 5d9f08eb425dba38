//! The tensors of a trial: like those of a real model, and other ones in each trial.
//!
//! An optimizer that could tell a trial from a job would behave in the one and not in the other. So nothing that it is
//! told is a constant of this program: names, shapes, numbers and losses are drawn from the system's generator. What it
//! can still tell is size: a trial has no large tensors.

use crate::contract::context::StepContext;
use crate::contract::tensor::TensorDescription;
use crate::error::SandboxError;

/// What models call their parts.
const BLOCKS: [&str; 8] =
    ["layers", "blocks", "encoder.layers", "decoder.layers", "transformer.h", "backbone.stages", "features", "experts"];

/// What the parts of a part are called.
const MODULES: [&str; 10] = [
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "mlp.up_proj",
    "mlp.down_proj",
    "norm",
    "linear",
    "conv",
    "projection",
];

/// What operators call groups of tensors. As a rule there are none.
const GROUPS: [&str; 6] = ["", "", "", "decay", "no_decay", "matrices"];

/// The most blocks of the model.
const MOST_BLOCKS: u64 = 48;

/// The most workers that the model is trained by.
const MOST_WORKERS: u64 = 16;

/// Numbers that nobody can foresee.
pub(super) struct Chance(u64);

impl Chance {
    /// From the operating system's generator.
    pub(super) fn from_system() -> Result<Self, SandboxError> {
        let mut seed = [0; size_of::<u64>()];
        getrandom::fill(&mut seed)
            .map_err(|error| SandboxError::Engine(format!("the system gives no random numbers: {error}")))?;
        Ok(Self(u64::from_le_bytes(seed)))
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from the one to the other, both included.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() as u64 - 1) as usize]
    }
}

/// What kind of tensor the trial needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A vector within one chunk, and one of several.
    Vectors,
    /// Matrices whose rows no chunk ends at.
    Matrices,
    /// Matrices for optimizers that visit them whole, whose work grows faster than the elements.
    WholeMatrices,
    /// Matrices of one column for optimizers that visit rows: there each element costs as much as a row does.
    NarrowMatrices,
}

/// A tensor of the trial, with its values in every round.
#[derive(Debug, Clone)]
pub(super) struct TrialTensor {
    pub(super) description: TensorDescription,
    salt: u32,
}

impl TrialTensor {
    /// Two of a kind, to tell the cost of a call from that of an element. The smaller comes first, and fits one chunk: so
    /// it is cut in the same way alone and beside the other one.
    pub(super) fn pair(kind: Kind, chance: &mut Chance) -> [Self; 2] {
        let is_tall = chance.next().is_multiple_of(2);
        let mut matrix = |[rows, columns]: [[u64; 2]; 2]| {
            let (rows, columns) = (chance.between(rows[0], rows[1]), chance.between(columns[0], columns[1]));
            if is_tall { vec![columns, rows] } else { vec![rows, columns] }
        };
        let shapes = match kind {
            Kind::Matrices => [matrix([[48, 60], [56, 68]]), matrix([[112, 128], [120, 136]])],
            Kind::WholeMatrices => [matrix([[20, 26], [34, 44]]), matrix([[44, 50], [72, 84]])],
            Kind::Vectors => [vec![chance.between(3072, 4095)], vec![chance.between(13_000, 16_381)]],
            Kind::NarrowMatrices => [vec![chance.between(900, 1100), 1], vec![chance.between(3600, 4095), 1]],
        };
        let first = chance.between(0, MOST_BLOCKS / 2);
        // In another block each, so that no two have one name.
        let blocks = [first, first + chance.between(1, MOST_BLOCKS / 2)];
        let [smaller, larger] = shapes;
        [Self::new(smaller, blocks[0], chance), Self::new(larger, blocks[1], chance)]
    }

    fn new(shape: Vec<u64>, block: u64, chance: &mut Chance) -> Self {
        let part = if shape.len() == 1 { "bias" } else { "weight" };
        let name = format!("{}.{block}.{}.{part}", chance.one_of(&BLOCKS), chance.one_of(&MODULES));
        let identity = TensorDescription::identity_of(&name);
        let group = chance.one_of(&GROUPS).to_owned();
        let description = TensorDescription { name, shape, group, identity, tags: Vec::new() };
        Self { description, salt: chance.next() as u32 }
    }

    /// How many elements it has.
    pub(super) fn elements(&self) -> u64 {
        self.description.shape.iter().product()
    }

    /// Its parameters (round 0) or its gradient.
    pub(super) fn values(&self, round: u64) -> Vec<f32> {
        let salt = self.salt ^ (round as u32).wrapping_mul(0x85eb_ca6b);
        (0..self.elements()).map(|index| sample(index as u32, salt)).collect()
    }
}

/// What is the same for all tensors of a trial, round by round.
pub(super) struct TrialJob {
    learning_rate: f32,
    contributors: u32,
    salt: u32,
}

impl TrialJob {
    pub(super) fn new(learning_rate: f64, chance: &mut Chance) -> Self {
        let contributors = chance.between(1, MOST_WORKERS) as u32;
        Self { learning_rate: learning_rate as f32, contributors, salt: chance.next() as u32 }
    }

    /// What a step is told of this round.
    pub(super) fn context(&self, round: u64) -> StepContext {
        let noise = sample(round as u32, self.salt);
        StepContext {
            step: round,
            tensor_step: round,
            learning_rate: self.learning_rate,
            peak_learning_rate: self.learning_rate,
            contributors: self.contributors,
            staleness: 0,
            // Falling, and not evenly.
            loss: Some(2.5 / (1.0 + 0.1 * round as f32) * (1.0 + 0.1 * noise)),
            seed: 0,
        }
    }
}

/// A made-up value in [-1, 1], with some zeros and some very small ones among them: what gradients look like.
fn sample(index: u32, salt: u32) -> f32 {
    let hash = index.wrapping_mul(0x9e37_79b9) ^ salt;
    let hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    let value = (hash >> 8) as f32 / (1 << 23) as f32 - 1.0;
    match hash % 16 {
        0 => 0.0,
        1 => value * 1e-20,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CHUNK_ELEMENTS;

    #[test]
    fn a_pair_is_what_was_asked_for_and_another_one_each_time() {
        let mut chance = Chance(7);
        let mut names = std::collections::HashSet::new();
        for _ in 0..100 {
            for kind in [Kind::Vectors, Kind::Matrices, Kind::WholeMatrices, Kind::NarrowMatrices] {
                let [smaller, larger] = TrialTensor::pair(kind, &mut chance);
                assert!(smaller.elements() < CHUNK_ELEMENTS.into(), "{kind:?}");
                assert!(2 * smaller.elements() < larger.elements() && larger.elements() < 1 << 15, "{kind:?}");
                assert_ne!(smaller.description.name, larger.description.name);
                assert_eq!(smaller.description.shape.len(), if kind == Kind::Vectors { 1 } else { 2 });
                assert!(larger.values(1).iter().all(|value| value.abs() <= 1.0));
                assert_ne!(smaller.values(1), smaller.values(2));
                names.insert(smaller.description.name);
            }
        }
        assert!(names.len() > 200, "{} names", names.len());
    }
}
