//! From a crate to a component: compile the crate to a core module, wrap the module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use wit_component::ComponentEncoder;

use super::toolchain::Toolchain;
use crate::workspace::cargo;

/// The cargo profile of guests, in the workspace's `Cargo.toml`.
const PROFILE: &str = "guest";

/// A crate that becomes a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its folder's name, after `hostile/` for the tests' hostile guests and `benches/` for those of the benchmarks.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
}

/// Every crate under `optimizers/`, `tests/hostile/` and `benches/guests/`, in the order of their names.
pub fn all(root: &Path) -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for (folder, prefix) in [("optimizers", ""), ("tests/hostile", "hostile/"), ("benches/guests", "benches/")] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.path().join("Cargo.toml").is_file() {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                guests.push(Guest { name, folder: entry.path() });
            }
        }
    }
    guests.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(guests)
}

/// The compiler's flags: what makes code fast, and what keeps this machine's paths out of it.
pub fn compiler_flags(root: &Path, toolchain: &Toolchain) -> Result<Vec<String>> {
    let mut flags = portable_flags();
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo"),
    };
    let places = [(root, "/stepbox"), (&cargo_home, "/cargo"), (&toolchain.library_source, "/rustc")];
    for (place, public_name) in places {
        flags.push(format!("--remap-path-prefix={}={public_name}", place.display()));
    }
    Ok(flags)
}

/// The flags that are the same on every machine.
pub fn portable_flags() -> Vec<String> {
    vec!["-Ctarget-feature=+simd128".to_string()]
}

/// Compiles one guest and returns its component, validated.
pub fn build(root: &Path, target_folder: &Path, toolchain: &Toolchain, guest: &Guest) -> Result<Vec<u8>> {
    let path = compile(root, target_folder, toolchain, guest)?;
    let module = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .with_context(|| format!("{} compiles, but is no component: does it register an optimizer?", guest.name))
}

/// Compiles one guest with cargo and returns the core module's path.
fn compile(root: &Path, target_folder: &Path, toolchain: &Toolchain, guest: &Guest) -> Result<PathBuf> {
    let mut command = cargo(root);
    // Not `build`: link-time optimisation runs only where a `cdylib` is the only thing that is made.
    command.args(["rustc", "--locked", "--quiet", "--lib", "--crate-type", "cdylib", "--profile", PROFILE]);
    command.arg("--message-format=json-render-diagnostics").arg("--target-dir").arg(target_folder);
    command.arg("--manifest-path").arg(guest.folder.join("Cargo.toml"));
    ignore_callers_settings(&mut command);
    command.env("CARGO_ENCODED_RUSTFLAGS", compiler_flags(root, toolchain)?.join("\u{1f}"));
    toolchain.apply_to(&mut command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("{} does not compile (its errors are above)", guest.name);
    }
    let messages = String::from_utf8(output.stdout).context("cargo did not print text")?;
    module_in(&messages, &guest.folder.join("Cargo.toml"))
        .with_context(|| format!("cargo made no WebAssembly module of {}", guest.folder.display()))
}

/// Settings by which the caller's environment could change the bytes.
fn ignore_callers_settings(command: &mut Command) {
    command.env_remove("RUSTFLAGS").env_remove("CARGO_BUILD_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PROFILE_") || name.starts_with("CARGO_TARGET_WASM32") {
            command.env_remove(&*name);
        }
    }
}

/// The part of cargo's messages that says which files a package's build made.
#[derive(Deserialize)]
struct ArtifactMessage {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

fn module_in(messages: &str, manifest: &Path) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<ArtifactMessage>(line).ok());
    let artifacts =
        messages.filter(|message| message.reason == "compiler-artifact" && message.manifest_path == manifest);
    let mut modules = artifacts.flat_map(|message| message.filenames);
    modules.find(|path| path.extension().is_some_and(|extension| extension == "wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_the_one_of_the_guests_own_manifest() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/sdk/Cargo.toml","filenames":["/t/sdk.wasm"]}"#,
            "\nnot JSON\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/sgd/Cargo.toml","filenames":["/t/sgd.d","/t/sgd.wasm"]}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(module_in(messages, Path::new("/w/sgd/Cargo.toml")), Some(PathBuf::from("/t/sgd.wasm")));
        assert_eq!(module_in(messages, Path::new("/w/lion/Cargo.toml")), None);
    }
}
