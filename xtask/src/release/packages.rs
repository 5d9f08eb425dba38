//! What a package is made of, as cargo resolves it for one target.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::output_of;
use crate::workspace::cargo;

/// A package's name and version: no two of a release have the same of both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub name: String,
    pub version: String,
}

/// What is known of a package.
#[derive(Debug, Clone)]
pub struct Package {
    pub license: Option<String>,
    pub description: Option<String>,
    pub repository: Option<String>,
    /// Of the archive on crates.io; none for packages of this workspace.
    pub checksum: Option<String>,
}

/// Packages and who depends on whom.
#[derive(Debug, Default)]
pub struct Graph {
    pub dependencies: BTreeMap<Id, BTreeSet<Id>>,
}

/// Reads `cargo tree`: exactly what is compiled into a package, with the features it gets when it is built by itself.
/// Programs that run while it is built, such as procedural macros, are listed with it.
pub fn tree(root: &Path, package: &str, target: &str) -> Result<Graph> {
    let arguments = ["tree", "--locked", "--package", package, "--target", target];
    let form = ["--edges", "normal,build", "--prefix", "depth", "--format", "|{p}"];
    // A package that was shown before comes without what it depends on, which has been shown then.
    let text = output_of(cargo(root).args(arguments).args(form))?;
    let mut graph = Graph::default();
    let mut path: Vec<Id> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (depth, id) = entry(line).with_context(|| format!("`cargo tree` printed {line:?}"))?;
        path.truncate(depth);
        graph.dependencies.entry(id.clone()).or_default();
        if let Some(parent) = path.last() {
            graph.dependencies.entry(parent.clone()).or_default().insert(id.clone());
        }
        path.push(id);
    }
    Ok(graph)
}

/// `3|serde v1.0.0 (proc-macro) (*)`.
fn entry(line: &str) -> Option<(usize, Id)> {
    let (depth, package) = line.split_once('|')?;
    let mut words = package.split_whitespace();
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some((depth.parse().ok()?, Id { name: name.to_owned(), version: version.to_owned() }))
}

/// What is known of all packages of the workspace and of those it may depend on.
pub fn known(root: &Path, targets: &[&str]) -> Result<BTreeMap<Id, Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Found>,
    }
    #[derive(Deserialize)]
    struct Found {
        name: String,
        version: String,
        license: Option<String>,
        description: Option<String>,
        repository: Option<String>,
    }
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let mut command = cargo(root);
    command.args(["metadata", "--locked", "--format-version", "1"]);
    // Others need not even be downloaded.
    for target in targets {
        command.args(["--filter-platform", target]);
    }
    let metadata = output_of(&mut command)?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("`cargo metadata` printed something else")?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("Cargo.lock")?;
    let lock: Lock = toml::from_str(&lock).context("Cargo.lock is not understood")?;
    let mut checksums: BTreeMap<Id, String> = BTreeMap::new();
    for Locked { name, version, checksum } in lock.package {
        checksums.extend(checksum.map(|checksum| (Id { name, version }, checksum)));
    }
    let package = |found: Found| {
        let Found { name, version, license, description, repository } = found;
        let id = Id { name, version };
        let checksum = checksums.remove(&id);
        (id, Package { license, description, repository, checksum })
    };
    Ok(metadata.packages.into_iter().map(package).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_cargo_tree_is_understood() {
        let id = |name: &str, version: &str| Id { name: name.into(), version: version.into() };
        assert_eq!(entry("0|stepbox v0.1.0 (/some/folder)"), Some((0, id("stepbox", "0.1.0"))));
        assert_eq!(entry("12|serde_derive v1.0.229 (proc-macro) (*)"), Some((12, id("serde_derive", "1.0.229"))));
        assert_eq!(entry("something else"), None);
    }
}
