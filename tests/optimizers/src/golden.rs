//! Golden trajectories of reference optimizers; `tests/golden/README.md` describes the files.

use std::path::PathBuf;

use serde::Deserialize;

/// A file of `tests/golden`.
#[derive(Debug, Deserialize)]
pub struct Golden {
    /// Name of the shipped optimizer.
    pub optimizer: String,
    /// Hyperparameters of the shipped optimizer, as an operator would write them.
    pub hyperparameters: std::collections::BTreeMap<String, String>,
    /// Learning rates, each with the first round in which it applies.
    pub learning_rate: Vec<(u64, f64)>,
    /// Factor of all gradients.
    pub gradient_scale: f32,
    /// The tensors of the model.
    pub tensors: Vec<Tensor>,
    /// For each round and tensor the touched rows; `None` if gradients are dense.
    pub rows: Option<Vec<Vec<Vec<u64>>>>,
    /// Largest permitted relative difference.
    pub tolerance: f64,
    /// Results of the reference after some rounds, in ascending order.
    pub checkpoints: Vec<Checkpoint>,
}

/// A tensor of the model.
#[derive(Debug, Deserialize)]
pub struct Tensor {
    /// Name of the tensor.
    pub name: String,
    /// Extents of the tensor.
    pub shape: Vec<u64>,
    /// Identity of the tensor.
    pub identity: u64,
}

/// The result of the reference after a round.
#[derive(Debug, Deserialize)]
pub struct Checkpoint {
    /// Number of the round.
    pub round: u64,
    /// Parameters of each tensor.
    pub parameters: Vec<Vec<f32>>,
    /// Evaluation weights of each tensor, if they differ from the parameters.
    pub evaluation: Option<Vec<Vec<f32>>>,
}

impl Golden {
    /// The names and contents of all golden files, ordered by name.
    ///
    /// # Panics
    /// If a file cannot be read.
    pub fn all() -> Vec<(String, Self)> {
        let folder = crate::repository().join("tests/golden");
        let files = std::fs::read_dir(&folder).expect("the repository has golden trajectories");
        let mut paths: Vec<PathBuf> = files.map(|entry| entry.expect("the folder can be read").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).expect("the file can be read");
            let golden = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), golden)
        };
        paths.iter().map(read).collect()
    }

    /// The learning rate in a round.
    pub fn learning_rate_of(&self, round: u64) -> f64 {
        let in_force = self.learning_rate.iter().take_while(|(from, _)| *from <= round).last();
        in_force.expect("the schedule starts with round 1").1
    }

    /// The initial parameters of a tensor.
    pub fn first_parameters(&self, tensor: usize) -> Vec<f32> {
        crate::values(self.tensors[tensor].elements(), 1000 + self.tensors[tensor].identity as u32)
    }

    /// The gradient of a tensor in a round.
    pub fn gradient(&self, round: u64, tensor: usize) -> Vec<f32> {
        let seed = 64 * round as u32 + self.tensors[tensor].identity as u32;
        let values = crate::values(self.tensors[tensor].elements(), seed);
        values.into_iter().map(|value| value * self.gradient_scale).collect()
    }

    /// The largest difference between our parameters and the reference's at a checkpoint, relative to the value or to
    /// the distance that the tensor has moved, whichever is larger.
    pub fn difference(&self, tensor: usize, reference: &[f32], ours: &[f32]) -> f64 {
        assert_eq!(reference.len(), ours.len());
        assert!(ours.iter().all(|value| value.is_finite()), "the maximum below would not see a NaN");
        let first = self.first_parameters(tensor);
        let apart = |left: &f32, right: &f32| (f64::from(*left) - f64::from(*right)).abs();
        let moved = reference.iter().zip(&first).map(|(now, then)| apart(now, then)).fold(0.0, f64::max);
        let relative = |(theirs, ours): (&f32, &f32)| {
            apart(ours, theirs) / f64::from(theirs.abs()).max(moved).max(f64::MIN_POSITIVE)
        };
        reference.iter().zip(ours).map(relative).fold(0.0, f64::max)
    }
}

impl Tensor {
    /// Number of elements of the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product::<u64>() as usize
    }
}
