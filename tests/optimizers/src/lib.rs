//! The basis of the tests of the shipped optimizers: the built components, made-up tensors and gradients, and
//! trajectories of reference implementations on them (`tests/golden`).

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod catalogue;
mod golden;

use std::path::{Path, PathBuf};

pub use catalogue::{Catalogue, Entry};
pub use golden::{Checkpoint, Golden, Tensor};
use stepbox_sandbox::{AdmittedComponent, Limits, Sandbox, SandboxConfig, StepContext};

/// Names of all shipped optimizers, sorted: the folders in `optimizers/`.
pub fn shipped() -> Vec<String> {
    let folders = std::fs::read_dir(repository().join("optimizers")).expect("the repository has optimizers");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("the folder can be read");
        entry.path().join("Cargo.toml").exists().then(|| entry.file_name().to_string_lossy().into_owned())
    };
    let mut names: Vec<_> = folders.filter_map(name).collect();
    names.sort();
    names
}

/// Admits the component of a shipped optimizer with these limits.
///
/// # Panics
/// If it has not been built, or is refused.
pub fn admit(name: &str, limits: Limits) -> AdmittedComponent {
    let path = repository().join("target/guests/components").join(format!("{name}.wasm"));
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask guests` first", path.display()));
    let sandbox = Sandbox::new(SandboxConfig { limits, ..SandboxConfig::default() }).expect("these limits are sound");
    sandbox.admit(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A made-up number in [-1, 1), sometimes zero or tiny: element `index` of a tensor's initial parameters or gradient,
/// selected by `seed`. It can be reproduced exactly in any language with 32-bit integers; `tests/golden/README.md`
/// contains the definition.
pub fn value(index: u32, seed: u32) -> f32 {
    let hash = index.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    let value = (hash >> 8) as f32 / (1 << 23) as f32 - 1.0;
    match hash % 16 {
        0 => 0.0,
        1 => value * 1e-20,
        _ => value,
    }
}

/// Made-up numbers: [`value`] for the indexes 0 to `elements - 1`.
pub fn values(elements: usize, seed: u32) -> Vec<f32> {
    (0..elements as u32).map(|index| value(index, seed)).collect()
}

/// The context of a round in which one worker has reported a loss that decreases over rounds.
pub fn context(round: u64, learning_rate: f64) -> StepContext {
    StepContext {
        step: round,
        tensor_step: round,
        learning_rate: learning_rate as f32,
        peak_learning_rate: learning_rate as f32,
        contributors: 1,
        staleness: 0,
        loss: Some(1.0 / round as f32),
        seed: 7,
    }
}

/// The bits of numbers, for exact comparison.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
