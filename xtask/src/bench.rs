//! `cargo xtask bench`: everything that the benchmarks need, and then the benchmarks.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::process::output_of;
use crate::{guests, workspace};

/// Where the figures go that the documentation shows, relative to the workspace's root.
const FOLDER: &str = "docs/benchmarks";

/// What to hand on.
#[derive(clap::Args)]
pub struct Options {
    /// Arguments of `stepbox bench` in place of `all --output docs/benchmarks`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Prepares and runs them. Standard output is the benchmarks' alone.
pub fn run(options: &Options) -> Result<ExitCode> {
    let root = workspace::root()?;
    guests::build(&guests::Options::default())?;
    let mut build = workspace::cargo(&root);
    build.args(["build", "--release", "--locked", "--package", "stepbox"]);
    if !build.status().context("cannot start cargo")?.success() {
        bail!("the command line does not build; the errors are above");
    }
    let program = workspace::release_folder(&root).join("stepbox");
    let mut bench = Command::new(&program);
    bench.arg("bench").current_dir(&root);
    match &options.arguments[..] {
        [] => bench.args(["all", "--output", FOLDER]),
        arguments => bench.args(arguments),
    };
    if let Some(commit) = commit(&root) {
        bench.args(["--commit", &commit]);
    }
    let status = bench.status().with_context(|| format!("cannot start {}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The commit that the sources are of, and whether they differ from it; `None` where there is no repository.
fn commit(root: &std::path::Path) -> Option<String> {
    let git = |arguments: &[&str]| output_of(Command::new("git").args(arguments).current_dir(root)).ok();
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?.trim().to_owned();
    // The figures themselves are about to change.
    let changes = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"])?;
    Some(if changes.trim().is_empty() { commit } else { format!("{commit} with changes") })
}
