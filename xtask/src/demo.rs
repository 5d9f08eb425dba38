//! `cargo xtask demo`: everything that the demonstration needs, and then the demonstration.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::handed_on;
use crate::{guests, workspace};

/// The demonstration's program, made by the package `stepbox-demo`.
const PROGRAM: &str = "digits-demo";

/// The components that it deploys or tries to deploy, a line for each. The others take two minutes to build.
const GUESTS: &str = include_str!("../../demo/guests.txt");

/// What to hand on.
#[derive(clap::Args)]
pub struct Options {
    /// Arguments of the demonstration, such as `--json`; `-- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Prepares and runs it. Standard output is the demonstration's alone, and so is the exit code.
pub fn run(options: &Options) -> Result<ExitCode> {
    let root = workspace::root()?;
    guests::build(&guests::Options::only(&GUESTS.lines().collect::<Vec<_>>()))?;
    workspace::build(&root, &["stepbox", "stepbox-demo"], "the demonstration")?;
    let program = workspace::release_folder(&root).join(PROGRAM);
    let mut command = Command::new(program);
    handed_on(command.args(&options.arguments).current_dir(&root))
}
