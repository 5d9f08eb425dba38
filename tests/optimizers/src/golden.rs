//! A trajectory of a reference optimizer, as `tests/golden/README.md` describes the files.

use std::path::PathBuf;

use serde::Deserialize;

/// A file of `tests/golden`.
#[derive(Debug, Deserialize)]
pub struct Golden {
    /// Our optimizer.
    pub optimizer: String,
    /// Our hyperparameters, as an operator would write them.
    pub hyperparameters: std::collections::BTreeMap<String, String>,
    /// Rounds and the learning rates from them on.
    pub learning_rate: Vec<(u64, f64)>,
    /// Factor of all gradients.
    pub gradient_scale: f32,
    /// The model.
    pub tensors: Vec<Tensor>,
    /// For each round and tensor the touched rows, where rows are touched.
    pub rows: Option<Vec<Vec<Vec<u64>>>>,
    /// Largest relative difference allowed.
    pub tolerance: f64,
    /// Where the reference was at some rounds, in ascending order.
    pub checkpoints: Vec<Checkpoint>,
}

/// A tensor of the model.
#[derive(Debug, Deserialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its extents.
    pub shape: Vec<u64>,
    /// Its identity.
    pub identity: u64,
}

/// Where the reference was after a round.
#[derive(Debug, Deserialize)]
pub struct Checkpoint {
    /// The round.
    pub round: u64,
    /// Each tensor's parameters.
    pub parameters: Vec<Vec<f32>>,
    /// Each tensor's weights for evaluation, where they differ.
    pub evaluation: Option<Vec<Vec<f32>>>,
}

impl Golden {
    /// The files' names and contents, in order of name.
    ///
    /// # Panics
    /// If one cannot be read.
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

    /// The learning rate of a round.
    pub fn learning_rate_of(&self, round: u64) -> f64 {
        let in_force = self.learning_rate.iter().take_while(|(from, _)| *from <= round).last();
        in_force.expect("the schedule starts with round 1").1
    }

    /// First parameters of a tensor.
    pub fn first_parameters(&self, tensor: usize) -> Vec<f32> {
        crate::values(self.tensors[tensor].elements(), 1000 + self.tensors[tensor].identity as u32)
    }

    /// Gradient of a tensor in a round.
    pub fn gradient(&self, round: u64, tensor: usize) -> Vec<f32> {
        let seed = 64 * round as u32 + self.tensors[tensor].identity as u32;
        let values = crate::values(self.tensors[tensor].elements(), seed);
        values.into_iter().map(|value| value * self.gradient_scale).collect()
    }

    /// The largest difference between our parameters and the reference's at a checkpoint, relative to the value or to
    /// how far the tensor has moved, whichever is more.
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
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product::<u64>() as usize
    }
}
