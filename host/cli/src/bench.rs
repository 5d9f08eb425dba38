//! `stepbox bench`: measures what the project claims, with each figure's baseline in the same run.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use stepbox_benches::abuse::{self, Attack, Attackers};
use stepbox_benches::report::{self, About};
use stepbox_benches::{
    BenchError, Components, Effort, Findings, Machine, Row, admission, overhead, reduce, rounds, wire,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::output::{Failure, Format, Report};

/// Measure what Stepbox costs, and what a component of yours costs
#[derive(Args)]
#[command(after_help = "\
Benchmarks:
  overhead   an optimizer in the sandbox against native code, against an interface that copies lists, and with and
             without metering; with --component one of yours
  reduce     the mean of gradients against the bandwidth of memory
  wire       pushes and pulls by a real server against a raw TLS pipe
  rounds     whole rounds with a real server over TLS
  admission  an optimizer from its signed file to its first step, compiled and from the cache
  abuse      rounds of honest workers while a server is attacked, in twelve ways
  all        all of these

A figure and its baseline are measured in turn, in one run; the ratio is the median of the pairs' ratios. Leave the
machine alone meanwhile. docs/benchmarks says how each is measured.

Examples:
  stepbox bench all
  stepbox bench reduce --json
  stepbox bench overhead --component my-rmsprop.wasm --native-crate optimizers/my-rmsprop
  stepbox bench rounds --workers 2 --parameters 1000000 --rounds 50 --json
  stepbox bench all --output report")]
pub(crate) struct Bench {
    /// What to measure
    #[arg(value_name = "BENCHMARK")]
    benchmark: Benchmark,

    /// Few repetitions on small sizes, to see that everything works; the figures say little
    #[arg(long)]
    quick: bool,

    /// The components to measure with, as `cargo xtask guests` makes them
    #[arg(long, value_name = "FOLDER", default_value = "target/guests/components")]
    components: PathBuf,

    /// Write results.json, results.md and charts (SVG) to this folder, too
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,

    /// The commit this program was built from, for the report
    #[arg(long, value_name = "COMMIT", hide = true)]
    commit: Option<String>,

    /// overhead: measure this component in place of AdamW
    #[arg(long, value_name = "FILE", help_heading = "Of single benchmarks")]
    component: Option<PathBuf>,

    /// overhead: the crate of that component, to run it natively (it needs examples/native_bench.rs)
    #[arg(long, value_name = "FOLDER", requires = "component", help_heading = "Of single benchmarks")]
    native_crate: Option<PathBuf>,

    /// rounds: how many workers, several separated by commas [default: 1,2,4]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = workers(), help_heading = "Of single benchmarks")]
    workers: Vec<u64>,

    /// rounds: how many parameters, several separated by commas [default: 10000,1000000,16000000]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = parameters(), help_heading = "Of single benchmarks")]
    parameters: Vec<u64>,

    /// abuse: only these attacks, several separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = attack, help_heading = "Of single benchmarks")]
    attack: Vec<Attack>,

    /// abuse: attack this server as a process of the benchmark
    #[arg(long, value_name = "ADDRESS", hide = true, requires_all = ["credentials", "identities"])]
    target: Option<SocketAddr>,

    /// abuse: the folder with the attackers' certificates
    #[arg(long, value_name = "FOLDER", hide = true)]
    credentials: Option<PathBuf>,

    /// abuse: how many of those there are
    #[arg(long, value_name = "NUMBER", hide = true, value_parser = clap::value_parser!(u64).range(1..=1024))]
    identities: Option<u64>,

    /// rounds: how many rounds are timed [default: as many as take seconds]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=100_000), help_heading = "Of single benchmarks")]
    rounds: Option<u64>,
}

fn attack(name: &str) -> Result<Attack, String> {
    let names = Attack::ALL.map(Attack::name).join(", ");
    Attack::named(name).ok_or_else(|| format!("there is no such attack; there are {names}"))
}

fn workers() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=64)
}

fn parameters() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1 << 30)
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    Overhead,
    Reduce,
    Wire,
    Rounds,
    Admission,
    Abuse,
    All,
}

impl Bench {
    pub(crate) fn run(&self, format: Format) -> Result<(), Failure> {
        self.check_options()?;
        if let (Some(server), Some(folder), Some(identities), Some(&attack)) =
            (self.target, &self.credentials, self.identities, self.attack.first())
        {
            let identities = identities as usize;
            // Where it may not have more files, there are fewer connections.
            #[cfg(unix)]
            let _ = rlimit::increase_nofile_limit(8192);
            return Ok(abuse::obey(&Attackers { attack, server, folder: folder.clone(), identities })?);
        }
        let now = OffsetDateTime::now_utc();
        // Figures are not of a fraction of a second.
        let date = now.replace_nanosecond(0).unwrap_or(now);
        let findings = self.measure()?;
        if let Some(folder) = &self.output {
            let about = About {
                // A time of the present has a form of this kind.
                date: date.format(&Rfc3339).unwrap_or_default(),
                stepbox: concat!("stepbox ", env!("CARGO_PKG_VERSION")).into(),
                commit: self.commit.clone(),
                quick: self.quick,
                machine: Machine::this(),
            };
            report::write(folder, &about, &findings)?;
        }
        if format == Format::Json {
            // Standard output is the rows' alone.
            findings.notes.iter().for_each(|note| eprintln!("note: {note}"));
        }
        format.print(&Measured { rows: findings.rows, notes: findings.notes })
    }

    fn measure(&self) -> Result<Findings, BenchError> {
        let shown = io::stderr().is_terminal();
        let progress = |what: &str| {
            if shown {
                eprintln!("measuring {what}");
            }
        };
        let effort = Effort { quick: self.quick, progress: &progress };
        let components = Components(self.components.clone());
        let wanted = |benchmark| self.benchmark == benchmark || self.benchmark == Benchmark::All;
        let mut findings = Findings::default();
        if wanted(Benchmark::Overhead) {
            let options = overhead::Options {
                components: components.clone(),
                component: self.component.clone(),
                native_crate: self.native_crate.clone(),
            };
            findings.add(overhead::measure(&options, &effort)?);
        }
        if wanted(Benchmark::Reduce) {
            findings.add(reduce::measure(&effort)?);
        }
        if wanted(Benchmark::Wire) {
            progress("pushes and pulls against a raw TLS pipe");
            let options = if self.quick {
                wire::Options { parameters: vec![1 << 16], rounds: 3, workers: vec![1], small_rounds: 20 }
            } else {
                let parameters = vec![1 << 16, 1 << 20, 1 << 24];
                wire::Options { parameters, rounds: 9, workers: vec![1, 2, 4], small_rounds: 1000 }
            };
            // An optimizer that costs little: it is not what is measured.
            let rows = wire::measure(&components.read("sgd")?, "sgd", &options)?;
            findings.add(Findings { rows, ..Findings::default() });
        }
        if wanted(Benchmark::Rounds) {
            let program = std::env::current_exe()
                .map_err(|source| BenchError::System { action: "find this program".into(), source })?;
            let sizes = |numbers: &[u64]| numbers.iter().map(|number| *number as usize).collect();
            let options = rounds::Options {
                program,
                components: components.clone(),
                workers: sizes(&self.workers),
                parameters: sizes(&self.parameters),
                rounds: self.rounds.map(|rounds| rounds as usize),
            };
            findings.add(rounds::measure(&options, &effort)?);
        }
        if wanted(Benchmark::Admission) {
            progress("admission of adamw");
            let adamw = Components(self.components.clone()).read("adamw")?;
            let program = std::env::current_exe()
                .map_err(|source| BenchError::System { action: "find this program".into(), source })?;
            let rows = admission::measure("adamw", &adamw, Some(&program), effort.either(2, 15))?;
            findings.add(Findings { rows, ..Findings::default() });
        }
        if wanted(Benchmark::Abuse) {
            let program = std::env::current_exe()
                .map_err(|source| BenchError::System { action: "find this program".into(), source })?;
            let options = abuse::Options { program, components, attacks: self.attack.clone() };
            findings.add(abuse::measure(&options, &effort)?);
        }
        Ok(findings)
    }

    /// Options of a benchmark that is not run would be ignored in silence.
    fn check_options(&self) -> Result<(), Failure> {
        let of_overhead = self.component.is_some();
        let of_rounds = !self.workers.is_empty() || !self.parameters.is_empty() || self.rounds.is_some();
        let of_abuse = !self.attack.is_empty() || self.target.is_some();
        let unused = match self.benchmark {
            Benchmark::All => false,
            Benchmark::Overhead => of_rounds || of_abuse,
            Benchmark::Rounds => of_overhead || of_abuse,
            Benchmark::Abuse => of_overhead || of_rounds,
            Benchmark::Reduce | Benchmark::Wire | Benchmark::Admission => of_overhead || of_rounds || of_abuse,
        };
        if unused {
            return Err(Failure::here("option", "an option is another benchmark's: `stepbox bench --help` says whose"));
        }
        Ok(())
    }
}

/// Rows for scripts; the notes are for people.
#[derive(Serialize)]
#[serde(transparent)]
struct Measured {
    rows: Vec<Row>,
    #[serde(skip)]
    notes: Vec<String>,
}

impl Report for Measured {
    fn text(&self) -> String {
        let mut text = report::text(&self.rows);
        for note in &self.notes {
            text += &format!("\n\n{note}");
        }
        text
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Client(error) => error.into(),
            BenchError::NoComponent { .. } => Self::here("file", error.to_string()),
            error => Self::here("bench", error.to_string()),
        }
    }
}
