//! Rounds of Stepbox beside rounds of MXNet 1.9.1: `cargo xtask bench-mxnet` prepares everything and runs it.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use stepbox_peer::cell::{Cell, PARAMETERS, WORKERS};
use stepbox_peer::{MxNet, Stepbox, measurement, report, worker};
use tokio::signal::unix::{SignalKind, signal};

/// Rounds of Stepbox beside rounds of MXNet 1.9.1.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure both sides, in turn, and print the ratios
    #[command(after_help = "\
Exit codes:
  0  measured, whether or not goals are met
  1  something did not work, or the two sides did not compute the same
  2  wrong usage
  130, 143  interrupted, terminated; no process is left behind

Example:
  cargo xtask bench-mxnet -- --workers 1,4 --parameters 1000000")]
    Run(Run),
    /// Be a worker of Stepbox's side; `run` starts these
    #[command(hide = true)]
    Worker(worker::Options),
}

#[derive(Args)]
struct Run {
    /// A Python that has MXNet 1.9.1
    #[arg(long, value_name = "FILE")]
    python: PathBuf,

    /// Numbers of workers
    #[arg(long, value_delimiter = ',', default_values_t = WORKERS, value_name = "W",
          value_parser = clap::value_parser!(u32).range(1..=16))]
    workers: Vec<u32>,

    /// Numbers of parameters
    #[arg(long, value_delimiter = ',', default_values_t = PARAMETERS, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    parameters: Vec<u32>,

    /// How often both sides are started anew for each cell
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,

    /// A variable for all of MXNet's processes, such as OMP_NUM_THREADS=1 (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    mxnet_set: Vec<(String, String)>,

    /// Let MXNet's workers call `push` and then `pull`, and not `pushpull`
    #[arg(long)]
    mxnet_separate: bool,

    /// The program `stepbox` [default: beside this program]
    #[arg(long, value_name = "FILE")]
    stepbox: Option<PathBuf>,

    /// Folder of the built components
    #[arg(long, value_name = "DIR", default_value = "target/guests/components")]
    components: PathBuf,

    /// Print a list of rows in place of a table
    #[arg(long)]
    json: bool,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Worker(options) => worker::run(&options).await,
        Verb::Run(options) => tokio::select! {
            result = run(&options) => result,
            // Leaving this function ends all processes and removes the folder.
            code = interrupted() => return ExitCode::from(code),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code tells all the same.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Run) -> Result<()> {
    let here = std::env::current_exe().context("this program does not know where it lies")?;
    let program = options.stepbox.clone().unwrap_or_else(|| here.with_file_name("stepbox"));
    let stepbox = Stepbox::new(&program, &here, &options.components)?;
    let mxnet = MxNet::new(&options.python, options.mxnet_set.clone(), options.mxnet_separate).await?;
    let say = |text: String| writeln!(io::stdout(), "{text}").context("cannot write to standard output");
    if !options.json {
        say(format!("Stepbox (TLS, sandboxed Adam) against {}\n{}", mxnet.describe(), report::head()))?;
    }
    let mut rows = Vec::new();
    let mut agree = true;
    for cell in Cell::all(&options.workers, &options.parameters) {
        let figures = measurement::measure(cell, options.repetitions, &mxnet, &stepbox).await;
        let figures = figures.with_context(|| cell.to_string())?;
        agree &= f64::from(figures.difference) <= report::DIFFERENCE;
        rows.extend(report::rows(cell, &figures, &mxnet.describe()));
        if !options.json {
            say(report::line(cell, &figures))?;
        }
    }
    if options.json {
        say(serde_json::to_string_pretty(&rows)?)?;
    }
    anyhow::ensure!(agree, "the two sides ended with different weights: their times cannot be compared");
    Ok(())
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
