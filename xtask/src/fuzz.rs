//! `cargo xtask fuzz`: every parser of what others send, under input that a fuzzer makes up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::stages::Packages;
use crate::tools::{CARGO_FUZZ, nightly, no_nightly};
use crate::workspace;

/// No input of a fuzz target may need more memory than this, in MiB: parsers are bounded.
const MEMORY_MIB: u32 = 1024;

/// No input may take longer than this: parsers end.
const INPUT_SECONDS: u32 = 10;

/// Seconds that all targets together run as a stage of `cargo xtask test`: enough to find what a change has broken, not
/// enough to search.
pub const STAGE_SECONDS: u64 = 60;

/// Optimization of what is fuzzed: as under the address sanitizer alone, for the time that the engine takes to compile.
const OPT_LEVEL: &str = "1";

/// Lines of a failing target's output that are shown.
const SHOWN_LINES: usize = 40;

/// What to run, and for how long.
#[derive(clap::Args)]
pub struct Options {
    /// Seconds that each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only these targets (comma-separated; default: all)
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    target: Vec<String>,
    /// Print one JSON list of what each target did on standard output
    #[arg(long)]
    json: bool,
}

/// What a target did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    target: String,
    seconds: u64,
    /// Inputs that were tried.
    executions: u64,
    /// Edges of the program that some input has reached; how far the fuzzer has come.
    coverage: u64,
    /// Inputs kept because each reaches something of its own, with those of earlier runs.
    corpus: u64,
    /// Inputs at which the target failed, as files.
    findings: Vec<String>,
}

/// Runs targets for as long as it is told, and prints what they did.
pub fn run(options: &Options) -> Result<ExitCode> {
    let root = workspace::root()?;
    if let Some(reason) = no_nightly() {
        bail!("{reason}");
    }
    let prepared = Prepared::new(&root)?;
    let unknown = options.target.iter().find(|name| !prepared.targets.contains(name));
    if let Some(unknown) = unknown {
        bail!("there is no target {unknown:?}; there are: {}", prepared.targets.join(", "));
    }
    let is_chosen = |name: &&String| options.target.is_empty() || options.target.contains(name);
    let mut runs = Vec::new();
    for target in prepared.targets.iter().filter(is_chosen) {
        eprintln!("fuzz: {target} for {} s", options.seconds);
        runs.push(prepared.run(target, Duration::from_secs(options.seconds))?);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&runs)?);
    } else {
        print_table(&runs);
    }
    let is_clean = runs.iter().all(|run| run.findings.is_empty());
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every target for an equal share of the time.
pub fn run_all_within(root: &Path, total: Duration) -> Result<()> {
    let prepared = Prepared::new(root)?;
    let share = (total / u32::try_from(prepared.targets.len())?).max(Duration::from_secs(1));
    let runs = prepared.targets.iter().map(|target| prepared.run(target, share)).collect::<Result<Vec<_>>>()?;
    print_table(&runs);
    match runs.iter().find_map(|run| run.findings.first()) {
        Some(finding) => bail!("an input fails: {finding}; `cargo xtask fuzz --target NAME` shows how"),
        None => Ok(()),
    }
}

/// All targets, built.
struct Prepared<'a> {
    root: &'a Path,
    program: PathBuf,
    targets: Vec<String>,
}

impl<'a> Prepared<'a> {
    fn new(root: &'a Path) -> Result<Self> {
        let program = CARGO_FUZZ.prepared(root)?;
        let folder = root.join("fuzz");
        let bins = Packages::of(&folder)?.targets_of_kind("bin");
        let targets: Vec<String> = bins.into_iter().map(|(_, target)| target).collect();
        ensure!(!targets.is_empty(), "{} has no fuzz target", folder.display());
        let prepared = Self { root, program, targets };
        // All at once, so that none is built in another's time.
        let status = prepared.cargo_fuzz("build").status().context("cannot start cargo-fuzz")?;
        ensure!(status.success(), "the fuzz targets do not build; the errors are above");
        Ok(prepared)
    }

    fn cargo_fuzz(&self, verb: &str) -> Command {
        let mut command = nightly(&self.program);
        command.current_dir(self.root).args(["fuzz", verb, "--fuzz-dir"]).arg(self.root.join("fuzz"));
        command.arg("--target-dir").arg(self.build_folder()).env("CARGO_PROFILE_RELEASE_OPT_LEVEL", OPT_LEVEL);
        command
    }

    fn build_folder(&self) -> PathBuf {
        self.root.join("target").join("fuzz")
    }

    fn run(&self, target: &str, time: Duration) -> Result<Run> {
        // What the fuzzer finds interesting goes to the first folder, which only this machine has.
        let found = self.build_folder().join("corpus").join(target);
        fs::create_dir_all(&found)?;
        let seeds = self.root.join("fuzz").join("seeds").join(target);
        ensure!(seeds.is_dir(), "{} is not there: a target starts from inputs that are right", seeds.display());
        let seconds = time.as_secs().max(1);
        let mut command = self.cargo_fuzz("run");
        command.arg(target).arg(&found).arg(seeds).args(["--", "-print_final_stats=1"]).args([
            format!("-max_total_time={seconds}"),
            format!("-rss_limit_mb={MEMORY_MIB}"),
            format!("-timeout={INPUT_SECONDS}"),
        ]);
        let started = Instant::now();
        let output = command.stdin(Stdio::null()).output().context("cannot start cargo-fuzz")?;
        let text = String::from_utf8_lossy(&output.stderr);
        let run = Run::read(target, started.elapsed().as_secs(), &text);
        if !output.status.success() {
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n"));
            ensure!(!run.findings.is_empty(), "the target {target} failed without a finding ({})", output.status);
        }
        Ok(run)
    }
}

impl Run {
    /// Reads what libFuzzer prints.
    fn read(target: &str, seconds: u64, text: &str) -> Self {
        let after = |line: &str, mark: &str| {
            let word = line.split_once(mark)?.1.split_whitespace().next()?;
            word.split('/').next()?.parse::<u64>().ok()
        };
        let last = |mark: &str| text.lines().rev().find_map(|line| after(line, mark)).unwrap_or(0);
        let finding = |line: &str| Some(line.split_once("Test unit written to ")?.1.trim().to_owned());
        Self {
            target: target.to_owned(),
            seconds,
            executions: last("stat::number_of_executed_units:"),
            coverage: last(" cov: "),
            corpus: last(" corp: "),
            findings: text.lines().filter_map(finding).collect(),
        }
    }
}

fn print_table(runs: &[Run]) {
    println!("{:<22}{:>8}{:>14}{:>10}{:>9}  findings", "target", "seconds", "executions", "coverage", "corpus");
    for Run { target, seconds, executions, coverage, corpus, findings } in runs {
        let findings = if findings.is_empty() { "none".to_owned() } else { findings.join(", ") };
        println!("{target:<22}{seconds:>8}{executions:>14}{coverage:>10}{corpus:>9}  {findings}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
#2	INITED cov: 100 ft: 101 corp: 1/8b exec/s: 0 rss: 40Mb
#262144	pulse  cov: 300 ft: 700 corp: 120/9Kb lim: 4096 exec/s: 131072 rss: 60Mb
#300000	DONE   cov: 311 ft: 720 corp: 123/10Kb lim: 4096 exec/s: 150000 rss: 61Mb
Done 300000 runs in 2 second(s)
stat::number_of_executed_units: 300000
stat::average_exec_per_sec:     150000
";

    #[test]
    fn what_the_fuzzer_says_is_understood() {
        let run = Run::read("frame", 2, GOOD);
        assert_eq!((run.executions, run.coverage, run.corpus), (300_000, 311, 123));
        assert!(run.findings.is_empty());
    }

    #[test]
    fn a_finding_is_not_overlooked() {
        let text = format!("{GOOD}artifact_prefix='x/'; Test unit written to fuzz/artifacts/frame/crash-0123\n");
        assert_eq!(Run::read("frame", 2, &text).findings, ["fuzz/artifacts/frame/crash-0123"]);
    }
}
