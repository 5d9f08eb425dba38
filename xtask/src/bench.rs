//! `cargo xtask bench`: everything that the benchmarks need, and then the benchmarks.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{handed_on, output_of};
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

/// Prepares and runs them. Standard output is the benchmarks' alone, and so is the exit code.
pub fn run(options: &Options) -> Result<ExitCode> {
    let root = workspace::root()?;
    guests::build(&guests::Options::default())?;
    workspace::build(&root, &["stepbox"], "the command line")?;
    let mut bench = Command::new(workspace::release_folder(&root).join("stepbox"));
    bench.arg("bench").current_dir(&root);
    match &options.arguments[..] {
        [] => bench.args(["all", "--output", FOLDER]),
        arguments => bench.args(arguments),
    };
    if let Some(commit) = commit(&root) {
        bench.args(["--commit", &commit]);
    }
    handed_on(&mut bench)
}

/// The commit that the sources are of, and whether they differ from it; `None` where there is no repository.
fn commit(root: &std::path::Path) -> Option<String> {
    let git = |arguments: &[&str]| output_of(Command::new("git").args(arguments).current_dir(root)).ok();
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?.trim().to_owned();
    // The figures themselves are about to change.
    let changes = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"])?;
    Some(if changes.trim().is_empty() { commit } else { format!("{commit} with changes") })
}
