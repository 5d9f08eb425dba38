//! `cargo xtask test`: everything that must hold before a change goes in, in stages.

mod list;
mod packages;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::workspace;
use list::STAGES;
pub use packages::Packages;

/// Which stages to run.
#[derive(clap::Args)]
pub struct Options {
    /// Run only these stages and those that they need (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "STAGE")]
    only: Vec<String>,
    /// Leave these stages out (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "STAGE")]
    skip: Vec<String>,
    /// Name the stages and what each does, and run none
    #[arg(long)]
    list: bool,
}

/// What the stages have in common.
struct Surroundings {
    root: PathBuf,
}

/// How a stage ended, unless in an error.
enum Verdict {
    Passed,
    /// Passed, but part of it could not be run here.
    PassedWithout(String),
    /// Could not be run here at all.
    Skipped(String),
}

/// A named part of the tests.
struct Stage {
    name: &'static str,
    about: &'static str,
    /// A stage whose results this one uses.
    needs: Option<&'static str>,
    run: fn(&Surroundings) -> Result<Verdict>,
}

/// What is said of a stage at the end.
struct Report {
    name: &'static str,
    outcome: Outcome,
    duration: Duration,
}

enum Outcome {
    Ran(Result<Verdict>),
    NotReached,
}

/// Runs the stages in order and stops at the first that fails.
pub fn run(options: &Options) -> Result<ExitCode> {
    if options.list {
        for stage in &STAGES {
            println!("{:<8}{}", stage.name, stage.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = chosen(&STAGES, &options.only, &options.skip)?;
    let surroundings = Surroundings { root: workspace::root()? };
    let mut reports = Vec::new();
    let mut failed = false;
    for stage in STAGES.iter().filter(|stage| chosen.contains(&stage.name)) {
        let started = Instant::now();
        let outcome = if failed {
            Outcome::NotReached
        } else {
            eprintln!("\n== {}: {}", stage.name, stage.about);
            let result = (stage.run)(&surroundings);
            if let Err(error) = &result {
                eprintln!("error: {}: {error:#}", stage.name);
                failed = true;
            }
            Outcome::Ran(result)
        };
        reports.push(Report { name: stage.name, outcome, duration: started.elapsed() });
    }
    print_table(&reports);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The names of the stages to run: those asked for with what they need, without those to be left out.
fn chosen(stages: &[Stage], only: &[String], skip: &[String]) -> Result<Vec<&'static str>> {
    let names = stages.iter().map(|stage| stage.name).collect::<Vec<_>>();
    if let Some(unknown) = only.iter().chain(skip).find(|name| !names.contains(&name.as_str())) {
        bail!("there is no stage {unknown:?}; there are: {}", names.join(", "));
    }
    let asked_for = |name: &str| only.is_empty() || only.iter().any(|asked| asked == name);
    let mut chosen = names.clone();
    chosen.retain(|name| {
        let needed = stages.iter().any(|stage| stage.needs == Some(name) && asked_for(stage.name));
        (asked_for(name) || needed) && !skip.iter().any(|skipped| skipped == name)
    });
    Ok(chosen)
}

/// A line for each stage, and as the last line how many passed and failed.
fn print_table(reports: &[Report]) {
    println!();
    let (mut passed, mut failed) = (0, 0);
    for report in reports {
        let (word, remark) = match &report.outcome {
            Outcome::Ran(Ok(Verdict::Passed)) => ("passed", String::new()),
            Outcome::Ran(Ok(Verdict::PassedWithout(part))) => ("passed", format!("without {part}")),
            Outcome::Ran(Ok(Verdict::Skipped(reason))) => ("skipped", reason.clone()),
            Outcome::Ran(Err(error)) => ("FAILED", error.to_string()),
            Outcome::NotReached => ("not run", "an earlier stage failed".to_string()),
        };
        match word {
            "passed" => passed += 1,
            "FAILED" => failed += 1,
            _ => {}
        }
        let line = format!("{:<8}{word:<9}{:>7.1} s  {remark}", report.name, report.duration.as_secs_f32());
        println!("{}", line.trim_end());
    }
    println!("\n{passed} passed, {failed} failed");
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn stage(name: &'static str, needs: Option<&'static str>) -> Stage {
        Stage { name, about: "", needs, run: |_| Ok(Verdict::Passed) }
    }

    const SOME: [Stage; 3] = [stage("guests", None), stage("clippy", None), stage("test", Some("guests"))];

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn all_stages_run_unless_told_otherwise() {
        assert_eq!(chosen(&SOME, &[], &[]).unwrap(), ["guests", "clippy", "test"]);
        assert_eq!(chosen(&SOME, &[], &strings(&["clippy"])).unwrap(), ["guests", "test"]);
    }

    #[test]
    fn what_a_stage_needs_comes_with_it_unless_it_is_left_out() {
        assert_eq!(chosen(&SOME, &strings(&["test"]), &[]).unwrap(), ["guests", "test"]);
        assert_eq!(chosen(&SOME, &strings(&["clippy"]), &[]).unwrap(), ["clippy"]);
        assert_eq!(chosen(&SOME, &strings(&["test"]), &strings(&["guests"])).unwrap(), ["test"]);
    }

    #[test]
    fn an_unknown_stage_is_refused_with_the_names_that_exist() {
        let error = chosen(&SOME, &strings(&["clipy"]), &[]).unwrap_err().to_string();
        assert!(error.contains("clipy") && error.contains("guests, clippy, test"), "{error}");
    }

    #[test]
    fn what_a_stage_needs_is_a_stage_that_runs_before_it() {
        for (index, stage) in STAGES.iter().enumerate() {
            if let Some(needed) = stage.needs {
                assert!(STAGES[..index].iter().any(|earlier| earlier.name == needed), "{}", stage.name);
            }
        }
    }
}
