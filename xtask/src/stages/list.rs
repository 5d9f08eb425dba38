//! The stages, in their order: what is quick and fails often comes first.
//!
//! All of them build in cargo's release profile: the tests of a numeric program need its speed, and one profile means
//! that the large dependencies are compiled once.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::packages::Packages;
use super::{Stage, Surroundings, Verdict};
use crate::process::run_within;
use crate::tools::{CARGO_DENY, nightly, no_nightly};
use crate::workspace::{cargo, host_triple};
use crate::{attack, fuzz, guests};
use anyhow::{Context, Result, bail};
use stepbox_test_skip::SKIPPED_TESTS;

/// How long the advisories may take to arrive, some 15 MB.
const ADVISORIES_LIMIT: Duration = Duration::from_secs(60);

/// Packages with code of their own that the compiler cannot check, and that address sanitizer therefore watches.
const PACKAGES_WITH_UNSAFE: [&str; 2] = ["stepbox-reduce", "stepbox-sandbox"];

/// Optimization under address sanitizer: at this level the sandbox's engine compiles in half the time, and is still fast
/// enough for the tests.
const SANITIZED_OPT_LEVEL: &str = "1";

pub const STAGES: [Stage; 10] = [
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
    Stage {
        name: "attack",
        about: "attacks on a server are contained and training goes on",
        needs: Some("guests"),
        run: attacks,
    },
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
    let skipped = surroundings.root.join("target").join("skipped-tests.txt");
    fs::write(&skipped, "").with_context(|| skipped.display().to_string())?;
    let test = |arguments: &[&str]| {
        let mut command = cargo(&surroundings.root);
        pass(command.args(["test", "--release", "--locked"]).args(arguments).env(SKIPPED_TESTS, &skipped))
    };
    test(&["--workspace", "--exclude", "xtask"])?;
    test(&["--package", "xtask"])?;
    let skipped = fs::read_to_string(&skipped).with_context(|| skipped.display().to_string())?;
    Ok(without_skipped(&skipped))
}

/// The verdict on tests of which these could not run here, a line for each.
fn without_skipped(tests: &str) -> Verdict {
    match tests.lines().collect::<Vec<_>>() {
        tests if tests.is_empty() => Verdict::Passed,
        tests => Verdict::PassedWithout(format!("{} that cannot run here: {}", tests.len(), tests.join("; "))),
    }
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
    if let Some(reason) = no_nightly() {
        return Ok(Verdict::Skipped(reason));
    }
    fuzz::run_all_within(&surroundings.root, Duration::from_secs(fuzz::STAGE_SECONDS))?;
    Ok(Verdict::Passed)
}

fn attacks(surroundings: &Surroundings) -> Result<Verdict> {
    // With the packages that the tests are built with, for the reason that `benchmarks` has.
    let mut build = cargo(&surroundings.root);
    pass(build.args(["test", "--release", "--locked", "--workspace", "--exclude", "xtask", "--no-run", "--quiet"]))?;
    match attack::attack(&surroundings.root, &[])? == ExitCode::SUCCESS {
        true => Ok(Verdict::Passed),
        false => bail!("not every attack was contained; the table above says which"),
    }
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

fn nightly_cargo(root: &Path) -> Command {
    let mut command = nightly(Path::new("cargo"));
    command.current_dir(root);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_cannot_run_stand_in_the_summary() {
        assert!(matches!(without_skipped(""), Verdict::Passed));
        let Verdict::PassedWithout(part) = without_skipped("one: no root\ntwo: no openssl\n") else {
            panic!("they are not mentioned")
        };
        assert_eq!(part, "2 that cannot run here: one: no root; two: no openssl");
    }
}
