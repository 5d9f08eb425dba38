//! The stages, in their order: what is quick and fails often comes first.
//!
//! All of them build in cargo's release profile: the tests of a numeric program need its speed, and one profile means
//! that the large dependencies are compiled once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Stage, Surroundings, Verdict};
use crate::guests;
use crate::process::{is_available, output_of, run_within};
use crate::tools::{CARGO_DENY, CARGO_FUZZ};
use crate::workspace::cargo;

/// How long the advisories may take to arrive, some 15 MB.
const ADVISORIES_LIMIT: Duration = Duration::from_secs(60);

/// How long each fuzz target runs: enough to find what a change has broken, not enough to search.
const FUZZ_SECONDS: u32 = 20;

/// No input of a fuzz target may need more memory than this, in MiB: parsers are bounded.
const FUZZ_MEMORY_MIB: u32 = 1024;

/// Packages with code of their own that the compiler cannot check, and that address sanitizer therefore watches.
const PACKAGES_WITH_UNSAFE: [&str; 2] = ["stepbox-reduce", "stepbox-sandbox"];

/// Optimization under address sanitizer: at this level the sandbox's engine compiles in half the time, and is still fast
/// enough for the tests.
const SANITIZED_OPT_LEVEL: &str = "1";

pub const STAGES: [Stage; 9] = [
    Stage { name: "fmt", about: "the sources are formatted", needs: None, run: formatting },
    Stage { name: "guests", about: "optimizers and hostile guests become components", needs: None, run: components },
    Stage { name: "clippy", about: "no warning of the compiler or of clippy", needs: None, run: clippy },
    Stage { name: "deny", about: "licences, bans, sources and advisories of dependencies", needs: None, run: deny },
    Stage {
        name: "test",
        about: "every test and every example in the documentation",
        needs: Some("guests"),
        run: tests,
    },
    Stage { name: "doc", about: "the documentation builds without a warning", needs: None, run: documentation },
    Stage {
        name: "asan",
        about: "tests of unsafe code under address sanitizer (nightly)",
        needs: Some("guests"),
        run: sanitizer,
    },
    Stage { name: "fuzz", about: "each parser under fuzzed input for a short time (nightly)", needs: None, run: fuzz },
    Stage { name: "bench", about: "each benchmark runs once", needs: Some("guests"), run: benchmarks },
];

fn formatting(surroundings: &Surroundings) -> Result<Verdict> {
    pass(cargo(&surroundings.root).args(["fmt", "--all", "--check"]))?;
    let fuzz = surroundings.root.join("fuzz/Cargo.toml");
    if fuzz.is_file() {
        pass(cargo(&surroundings.root).args(["fmt", "--check", "--manifest-path"]).arg(fuzz))?;
    }
    Ok(Verdict::Passed)
}

fn components(_: &Surroundings) -> Result<Verdict> {
    guests::build(&guests::Options::default())?;
    Ok(Verdict::Passed)
}

fn clippy(surroundings: &Surroundings) -> Result<Verdict> {
    let mut command = cargo(&surroundings.root);
    pass(command.args(["clippy", "--release", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;

    // Once more for what only a guest compiles. Clippy cannot build a standard library of another release for it.
    if !guests::target_is_installed()? {
        let part = format!("guests' own code: {} is not installed beside clippy", guests::TARGET);
        return Ok(Verdict::PassedWithout(part));
    }
    let mut command = cargo(&surroundings.root);
    command.args(["clippy", "--release", "--locked", "--lib", "--target", guests::TARGET]);
    for package in
        Packages::of(&surroundings.root)?.in_folders(&guests::SOURCES.map(|folder| surroundings.root.join(folder)))
    {
        command.args(["--package", &package]);
    }
    pass(command.args(["--", "-D", "warnings"]))?;
    Ok(Verdict::Passed)
}

fn deny(surroundings: &Surroundings) -> Result<Verdict> {
    let program = CARGO_DENY.prepared(&surroundings.root)?;
    let deny = || {
        let mut command = Command::new(&program);
        command.current_dir(&surroundings.root).args(["--workspace", "--all-features", "--locked"]);
        command
    };
    pass(deny().args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    let fetched = run_within(ADVISORIES_LIMIT, deny().args(["fetch", "db"]).env("GIT_TERMINAL_PROMPT", "0"))?;
    if !fetched.succeeded() {
        let reason = fetched.reason(ADVISORIES_LIMIT);
        return Ok(Verdict::PassedWithout(format!(
            "advisories and yanked releases: their database cannot be fetched ({reason})"
        )));
    }
    pass(deny().args(["check", "--disable-fetch", "advisories"]))?;
    Ok(Verdict::Passed)
}

fn tests(surroundings: &Surroundings) -> Result<Verdict> {
    // This program apart from the rest: together, its dependencies' features would have the sandbox's compiled anew.
    let mut rest = cargo(&surroundings.root);
    pass(rest.args(["test", "--release", "--locked", "--workspace", "--exclude", "xtask"]))?;
    pass(cargo(&surroundings.root).args(["test", "--release", "--locked", "--package", "xtask"]))?;
    Ok(Verdict::Passed)
}

fn documentation(surroundings: &Surroundings) -> Result<Verdict> {
    let mut command = cargo(&surroundings.root);
    command.args(["doc", "--release", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    pass(&mut command)?;
    Ok(Verdict::Passed)
}

fn sanitizer(surroundings: &Surroundings) -> Result<Verdict> {
    if let Some(reason) = no_nightly() {
        return Ok(Verdict::Skipped(reason));
    }
    let mut command = nightly_cargo(&surroundings.root);
    // Not doc tests: they are linked without the sanitizer's runtime. A target must be named, or build scripts and
    // procedural macros would be sanitized too.
    command.args(["test", "--release", "--locked", "--lib", "--tests", "--target", &host_triple()?]);
    for package in PACKAGES_WITH_UNSAFE {
        command.args(["--package", package]);
    }
    command.arg("--target-dir").arg(surroundings.root.join("target").join("asan"));
    command.env("RUSTFLAGS", "-Zsanitizer=address").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", SANITIZED_OPT_LEVEL);
    pass(&mut command)?;
    Ok(Verdict::Passed)
}

fn fuzz(surroundings: &Surroundings) -> Result<Verdict> {
    let folder = surroundings.root.join("fuzz");
    if let Some(reason) = no_nightly() {
        return Ok(Verdict::Skipped(reason));
    }
    let program = CARGO_FUZZ.prepared(&surroundings.root)?;
    let bins = Packages::of(&folder)?.targets_of_kind("bin");
    if bins.is_empty() {
        bail!("{} has no fuzz target", folder.display());
    }
    let build_folder = surroundings.root.join("target").join("fuzz");
    for (_, target) in bins {
        // What the fuzzer finds interesting goes to the first folder, which only this machine has.
        let found = build_folder.join("corpus").join(&target);
        std::fs::create_dir_all(&found)?;
        let mut command = nightly(&program);
        command.current_dir(&surroundings.root).args(["fuzz", "run", "--fuzz-dir"]).arg(&folder);
        command.arg("--target-dir").arg(&build_folder).arg(&target).arg(&found).arg(folder.join("seeds").join(&target));
        command.args(["--", "-verbosity=0", "-print_final_stats=1"]);
        command.args([format!("-max_total_time={FUZZ_SECONDS}"), format!("-rss_limit_mb={FUZZ_MEMORY_MIB}")]);
        pass(&mut command)?;
    }
    Ok(Verdict::Passed)
}

fn benchmarks(surroundings: &Surroundings) -> Result<Verdict> {
    let benches = Packages::of(&surroundings.root)?.targets_of_kind("bench");
    if benches.is_empty() {
        return Ok(Verdict::Skipped("there are no benchmarks".to_string()));
    }
    // As tests and not as benchmarks: once through. With the packages that the tests are built with, or their
    // dependencies' features would differ and the sandbox's would be compiled anew.
    let mut command = cargo(&surroundings.root);
    command.args(["test", "--release", "--locked", "--workspace", "--exclude", "xtask"]);
    for (_, bench) in benches {
        command.args(["--bench", &bench]);
    }
    pass(&mut command)?;
    Ok(Verdict::Passed)
}

/// Runs a command that writes to our own output, and fails if it fails.
fn pass(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start `{name}`"))?;
    if !status.success() {
        let arguments = command.get_args().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let name = Path::new(&name).file_name().map_or(name.clone(), |name| name.to_string_lossy().into_owned());
        bail!("`{name} {arguments}` failed ({status})");
    }
    Ok(())
}

/// Why nightly cannot be used, if so.
fn no_nightly() -> Option<String> {
    let answers = is_available("rustup") && output_of(nightly(Path::new("rustc")).arg("-V")).is_ok();
    (!answers).then(|| "rustup has no nightly toolchain here (`rustup toolchain install nightly`)".to_string())
}

/// A program with the nightly toolchain first on its search path.
fn nightly(program: &Path) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly"]).arg(program);
    // Set by the cargo that runs us, to its own toolchain.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}

fn nightly_cargo(root: &Path) -> Command {
    let mut command = nightly(Path::new("cargo"));
    command.current_dir(root);
    command
}

fn host_triple() -> Result<String> {
    let version = output_of(Command::new("rustc").arg("-vV"))?;
    let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(triple.context("`rustc -vV` does not name its host")?.to_string())
}

/// The part of `cargo metadata` that names targets.
#[derive(Deserialize)]
struct Packages {
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
    fn of(folder: &Path) -> Result<Self> {
        let metadata = output_of(cargo(folder).args(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&metadata).context("`cargo metadata` printed something else than metadata")
    }

    /// Names of the packages that lie in one of these folders.
    fn in_folders(self, folders: &[PathBuf]) -> Vec<String> {
        let lies_in = |package: &Package| folders.iter().any(|folder| package.manifest_path.starts_with(folder));
        self.packages.into_iter().filter(lies_in).map(|package| package.name).collect()
    }

    /// Package and name of each target of a kind.
    fn targets_of_kind(self, kind: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for package in self.packages {
            for target in package.targets.into_iter().filter(|target| target.kind.iter().any(|one| one == kind)) {
                found.push((package.name.clone(), target.name));
            }
        }
        found
    }
}
