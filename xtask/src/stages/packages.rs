//! The workspace's packages and their targets, by `cargo metadata`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::output_of;
use crate::workspace::cargo;

/// The part of `cargo metadata` that names targets.
#[derive(Deserialize)]
pub struct Packages {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Packages {
    /// Those of the workspace in a folder.
    pub fn of(folder: &Path) -> Result<Self> {
        let metadata = output_of(cargo(folder).args(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&metadata).context("`cargo metadata` printed something else than metadata")
    }

    /// Names of the packages that lie in one of these folders.
    pub fn in_folders(self, folders: &[PathBuf]) -> Vec<String> {
        let lies_in = |package: &Package| folders.iter().any(|folder| package.manifest_path.starts_with(folder));
        self.packages.into_iter().filter(lies_in).map(|package| package.name).collect()
    }

    /// Package and name of each target of a kind.
    pub fn targets_of_kind(self, kind: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for package in self.packages {
            for target in package.targets.into_iter().filter(|target| target.kind.iter().any(|one| one == kind)) {
                found.push((package.name.clone(), target.name));
            }
        }
        found
    }
}
