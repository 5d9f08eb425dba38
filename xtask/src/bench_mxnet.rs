//! `cargo xtask bench-mxnet`: an environment of Python with MXNet, everything of Stepbox's, and then the comparison.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{handed_on, run_within};
use crate::{guests, workspace};

/// The program, made by the package of the same name.
const PROGRAM: &str = "stepbox-peer";

/// The packages, with their releases: those that the golden trajectories of MXNet come from.
const REQUIREMENTS: &str = "tests/golden/requirements-mxnet.txt";

/// Pythons to look for, the newest that MXNet 1.9.1 works with first.
const PYTHONS: [&str; 5] = ["python3.11", "python3.10", "python3.9", "python3.8", "python3"];

/// Ends with 0 where MXNet 1.9.1 and the numpy it needs can be installed.
const IS_USABLE: &str = "import sys, venv; sys.exit(not (3, 8) <= sys.version_info < (3, 12))";

/// Time for a Python to say which one it is.
const QUESTION_LIMIT: Duration = Duration::from_secs(30);

/// Time for some 70 MB to arrive from PyPI and be unpacked.
const INSTALLATION_LIMIT: Duration = Duration::from_secs(600);

/// What to use and what to hand on.
#[derive(clap::Args)]
pub struct Options {
    /// A Python 3.8 to 3.11 to make the environment with [default: the newest on the search path]
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Arguments of the comparison, such as `--json`; `-- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Prepares and runs it. Standard output is the comparison's alone, and so is the exit code.
pub fn run(options: &Options) -> Result<ExitCode> {
    let root = workspace::root()?;
    let python = environment(&root, options.python.as_deref())?;
    guests::build(&guests::Options::only(&["adam"]))?;
    workspace::build(&root, &["stepbox", PROGRAM], "the comparison")?;
    let mut command = Command::new(workspace::release_folder(&root).join(PROGRAM));
    command.arg("run").arg("--python").arg(python).args(&options.arguments);
    handed_on(command.current_dir(&root))
}

/// The Python of an environment in the build folder that has MXNet. It is made once.
fn environment(root: &Path, python: Option<&Path>) -> Result<PathBuf> {
    let folder = workspace::target_folder(root).join("mxnet");
    // Written last, so that an installation that broke off is done again.
    let done = folder.join("requirements.txt");
    let requirements = root.join(REQUIREMENTS);
    let wanted = fs::read(&requirements).with_context(|| requirements.display().to_string())?;
    let made = folder.join("bin/python");
    if fs::read(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(made);
    }
    let python = python.map_or_else(find_python, |python| Ok(python.to_owned()))?;
    eprintln!("bench-mxnet: installing MXNet 1.9.1 from PyPI into {}", folder.display());
    must(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder))?;
    must(Command::new(&made).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements))?;
    fs::write(&done, wanted).with_context(|| done.display().to_string())?;
    Ok(made)
}

fn find_python() -> Result<PathBuf> {
    for name in PYTHONS {
        let asked = run_within(QUESTION_LIMIT, Command::new(name).args(["-c", IS_USABLE]));
        if asked.is_ok_and(|outcome| outcome.succeeded()) {
            return Ok(name.into());
        }
    }
    bail!("MXNet 1.9.1 needs Python 3.8 to 3.11 with venv, and none is on the search path; name one with --python")
}

fn must(command: &mut Command) -> Result<()> {
    let outcome = run_within(INSTALLATION_LIMIT, command)?;
    if !outcome.succeeded() {
        bail!("MXNet cannot be installed: {}", outcome.reason(INSTALLATION_LIMIT));
    }
    Ok(())
}
