//! Programs of the Rust ecosystem that the tests need, of pinned versions, in `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{is_available, output_of};
use crate::workspace::cargo;

/// A program on crates.io.
pub struct Tool {
    /// The crate's and the program's name.
    pub name: &'static str,
    /// Exactly this release.
    pub version: &'static str,
}

/// Licences, bans, sources, advisories.
pub const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// libFuzzer for cargo.
pub const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

impl Tool {
    /// The program's path: as found on the search path in this very version, or built from source once.
    pub fn prepared(&self, root: &Path) -> Result<PathBuf> {
        let tools = root.join("target").join("tools");
        let built = tools.join("bin").join(self.name);
        for candidate in [PathBuf::from(self.name), built.clone()] {
            if self.is_version_of(&candidate) {
                return Ok(candidate);
            }
        }
        eprintln!("building {} {} (once; it stays in {})", self.name, self.version, tools.display());
        // Unoptimised: it is built more often than it works hard, and that is what takes minutes.
        let status = cargo(root)
            .args(["install", "--quiet", "--locked", "--profile", "dev", "--root"])
            .arg(&tools)
            .arg(format!("{}@{}", self.name, self.version))
            .env("CARGO_TARGET_DIR", tools.join("build"))
            .env("CARGO_PROFILE_DEV_DEBUG", "none")
            .status()
            .context("cannot start cargo")?;
        if !status.success() {
            bail!("cannot install {}; its errors are above", self.name);
        }
        std::fs::remove_dir_all(tools.join("build")).context("cannot clear away what building it left")?;
        Ok(built)
    }

    fn is_version_of(&self, program: &Path) -> bool {
        let said = output_of(Command::new(program).arg("--version")).unwrap_or_default();
        said.split_whitespace().last() == Some(self.version)
    }
}

/// Why nightly cannot be used, if so.
pub fn no_nightly() -> Option<String> {
    let answers = is_available("rustup") && output_of(nightly(Path::new("rustc")).arg("-V")).is_ok();
    (!answers).then(|| "rustup has no nightly toolchain here (`rustup toolchain install nightly`)".to_string())
}

/// A program with the nightly toolchain first on its search path.
pub fn nightly(program: &Path) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly"]).arg(program);
    // Set by the cargo that runs us, to its own toolchain.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}
