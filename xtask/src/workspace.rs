//! Where things are: the workspace, its build folder, the user's cache.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::output_of;

/// The workspace's root: the nearest folder, from the current one upwards, that holds both `wit/` and a `Cargo.toml`.
pub fn root() -> Result<PathBuf> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let here = here.canonicalize().with_context(|| format!("cannot resolve {}", here.display()))?;
    for folder in here.ancestors() {
        if folder.join("wit").is_dir() && folder.join("Cargo.toml").is_file() {
            return Ok(folder.to_path_buf());
        }
    }
    bail!("{} is not inside the Stepbox workspace; run this from a folder of it", here.display())
}

/// The folder of this user's cache that is ours: `$XDG_CACHE_HOME/stepbox`, or `~/.cache/stepbox`.
pub fn cache_folder() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(cache) = absolute("XDG_CACHE_HOME") {
        return Ok(cache.join("stepbox"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".cache").join("stepbox")),
        None => bail!("neither XDG_CACHE_HOME nor HOME is an absolute path: there is nowhere to keep a cache; set one"),
    }
}

/// `cargo` as the caller started it, run from `root`.
pub fn cargo(root: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Builds packages for release; `what` they are is told where that fails.
pub fn build(root: &Path, packages: &[&str], what: &str) -> Result<()> {
    let mut build = cargo(root);
    build.args(["build", "--release", "--locked"]);
    for package in packages {
        build.args(["--package", package]);
    }
    match build.status().context("cannot start cargo")?.success() {
        true => Ok(()),
        false => bail!("{what} does not build; the errors are above"),
    }
}

/// Where cargo puts what it builds.
pub fn target_folder(root: &Path) -> PathBuf {
    root.join(std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from))
}

/// Where cargo puts release builds.
pub fn release_folder(root: &Path) -> PathBuf {
    target_folder(root).join("release")
}

/// The triple of this machine, as cargo names targets.
pub fn host_triple() -> Result<String> {
    let version = output_of(std::process::Command::new("rustc").arg("-vV"))?;
    let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(triple.context("`rustc -vV` does not name its host")?.to_string())
}
