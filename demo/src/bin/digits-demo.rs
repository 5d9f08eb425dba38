//! The demonstration as a program: `cargo xtask demo` builds everything it needs and runs it.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use stepbox_demo::demonstration::{self, Outcome, Parts};
use stepbox_demo::training::ROUNDS;
use tokio::signal::unix::{SignalKind, signal};

/// Train a network through a Stepbox server with four workers, then try to smuggle optimizers into the server.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Exit codes:
  0  all that is claimed held
  1  something did not work, or a claim did not hold
  2  wrong usage
  130, 143  interrupted, terminated

Example:
  cargo xtask demo --json"
)]
struct Options {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,

    /// Rounds of training
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rounds: u64,

    /// The program `stepbox` [default: beside this program]
    #[arg(long, value_name = "FILE")]
    stepbox: Option<PathBuf>,

    /// The program `digits-worker` [default: beside this program]
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,

    /// Folder of the built components
    #[arg(long, value_name = "DIR", default_value = "target/guests/components")]
    components: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = tokio::select! {
        outcome = run(&options) => outcome,
        // Leaving this function ends all processes and removes the folder.
        code = interrupted() => return ExitCode::from(code),
    };
    match outcome.and_then(|outcome| print(&outcome, options.json).map(|()| outcome.held())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Standard error may be closed; the exit code tells all the same.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<Outcome> {
    let here = std::env::current_exe().context("this program does not know where it lies")?;
    let beside = |name: &str| here.with_file_name(name);
    let parts = Parts {
        stepbox: options.stepbox.clone().unwrap_or_else(|| beside("stepbox")),
        worker: options.worker.clone().unwrap_or_else(|| beside("digits-worker")),
        components: options.components.clone(),
    };
    demonstration::run(&parts, options.rounds).await
}

fn print(outcome: &Outcome, json: bool) -> Result<()> {
    let text = if json { outcome.json()? } else { outcome.to_string() };
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

/// Waits for somebody to end this program; gives the exit code that shells expect then.
async fn interrupted() -> u8 {
    let listen = |kind| signal(kind).expect("signals can be listened to while a runtime runs");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    }
}
