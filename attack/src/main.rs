//! The attacks as a program: `cargo xtask attack` builds everything it needs and runs it.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use stepbox_attack::arena::Arena;
use stepbox_attack::attacks::{self, Attack};
use stepbox_attack::report::{Row, Table};
use stepbox_attack::threat::Threat;
use tokio::signal::unix::{SignalKind, signal};

/// Attack a real server while workers train through it, and say what became of each attack.
#[derive(Parser)]
#[command(
    version,
    name = "stepbox-attack",
    after_help = "\
Exit codes:
  0  every attack was refused or contained, and training went on
  1  something did not work, or an attack was not contained
  2  wrong usage
  130, 143  interrupted, terminated

Examples:
  cargo xtask attack
  cargo xtask attack --json | jq '.[] | select(.contained | not)'
  cargo xtask attack --only flood,signed --keep"
)]
struct Options {
    /// Print an array of rows instead of a table
    #[arg(long)]
    json: bool,

    /// Only attacks whose name or threat contains one of these (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "TEXT")]
    only: Vec<String>,

    /// Name the attacks, and what must come of each, and make none
    #[arg(long)]
    list: bool,

    /// Leave the folder with all files and logs, and say where it is
    #[arg(long)]
    keep: bool,

    /// The program `stepbox` [default: beside this program]
    #[arg(long, value_name = "FILE")]
    stepbox: Option<PathBuf>,

    /// Folder of the built components
    #[arg(long, value_name = "DIR", default_value = "target/guests/components")]
    components: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = tokio::select! {
        outcome = run(&options) => outcome,
        // Leaving this function ends all processes and removes the folder.
        code = interrupted() => return ExitCode::from(code),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Standard error may be closed; the exit code tells all the same.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<bool> {
    let mut chosen = attacks::all();
    chosen.retain(|attack| is_chosen(attack, &options.only));
    ensure!(!chosen.is_empty(), "no attack's name or threat contains {:?}; --list names them", options.only);
    if options.list {
        list(&chosen, options.json)?;
        return Ok(true);
    }
    let here = std::env::current_exe().context("this program does not know where it lies")?;
    let stepbox = options.stepbox.clone().unwrap_or_else(|| here.with_file_name("stepbox"));
    let mut folder = tempfile::Builder::new().prefix("stepbox-attack-").tempdir().context("no temporary folder")?;
    if options.keep {
        folder.disable_cleanup(true);
        eprintln!("files and logs stay in {}", folder.path().display());
    }
    let mut arena = Arena::prepare(&stepbox, &options.components, folder.path()).await?;
    let mut rows = Vec::new();
    for (number, attack) in chosen.iter().enumerate() {
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[2K[{}/{}] {}", number + 1, chosen.len(), attack.name);
        }
        let row = attack.make(&mut arena).await?;
        // What is left of the server or of the training is no ground for further attacks.
        let goes_on = row.server_healthy && row.training_went_on;
        rows.push(row);
        if !goes_on {
            break;
        }
    }
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[2K");
    }
    let all_made = rows.len() == chosen.len();
    if all_made {
        arena.close().await?;
    }
    print(&rows, options.json)?;
    if !all_made {
        eprintln!("{} attacks were not made any more", chosen.len() - rows.len());
    }
    Ok(all_made && rows.iter().all(Row::held))
}

fn is_chosen(attack: &Attack, only: &[String]) -> bool {
    let contains = |text: &String| attack.name.contains(text) || attack.threat.words().contains(text);
    only.is_empty() || only.iter().any(contains)
}

fn list(attacks: &[Attack], json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let entries = attacks.iter().map(
            |attack| serde_json::json!({ "threat": attack.threat, "attack": attack.name, "expected": attack.expected }),
        );
        writeln!(out, "{}", serde_json::to_string_pretty(&entries.collect::<Vec<_>>())?)?;
        return Ok(());
    }
    for threat in Threat::ALL {
        let here = attacks.iter().filter(|attack| attack.threat == threat).collect::<Vec<_>>();
        if here.is_empty() && threat.not_here().is_none() {
            continue;
        }
        writeln!(out, "{threat}")?;
        for attack in here {
            writeln!(out, "    {:<70} {}", attack.name, attack.expected.join(", or "))?;
        }
        if let Some(reason) = threat.not_here() {
            writeln!(out, "    none here: {reason}")?;
        }
    }
    Ok(())
}

fn print(rows: &[Row], json: bool) -> Result<()> {
    let text = if json { serde_json::to_string_pretty(rows)? } else { Table(rows).to_string() };
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
