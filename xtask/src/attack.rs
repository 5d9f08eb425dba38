//! `cargo xtask attack`: everything that the attacks need, and then the attacks.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::handed_on;
use crate::{guests, workspace};

/// The attacker's program, made by the package of the same name.
const PROGRAM: &str = "stepbox-attack";

/// What to hand on.
#[derive(clap::Args)]
pub struct Options {
    /// Arguments of the attacker's program, such as `--json` or `--only flood`; `-- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Prepares and makes them. Standard output is the report's alone, and so is the exit code.
pub fn run(options: &Options) -> Result<ExitCode> {
    let root = workspace::root()?;
    guests::build(&guests::Options::default())?;
    workspace::build(&root, &["stepbox", PROGRAM], "the attacker's program")?;
    attack(&root, &options.arguments)
}

/// Makes all attacks, with programs that are built already.
pub fn attack(root: &Path, arguments: &[OsString]) -> Result<ExitCode> {
    let program = workspace::release_folder(root).join(PROGRAM);
    handed_on(Command::new(program).args(arguments).current_dir(root))
}
