//! `stepbox trust`: what an operator does with a trust file besides writing it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use stepbox_trust::{Finding, Moment, Severity, TrustStore};

use crate::output::{Failure, Report};
use crate::verify::time;

/// Look after trust files
#[derive(Args)]
pub(crate) struct Trust {
    #[command(subcommand)]
    verb: TrustVerb,
}

#[derive(Subcommand)]
enum TrustVerb {
    Check(Check),
}

/// Look a trust file over
#[derive(Args)]
#[command(after_help = "\
Errors are what has no effect: publishers without a valid key, rules whose threshold nobody can reach. Warnings are keys
that have run out or soon will, revoked keys still listed, publishers who may use every name. Exits with 0 without errors
(with --strict, without warnings too), and with 1 otherwise.

Examples:
  stepbox trust check publishers.toml
  stepbox trust check publishers.toml --at 2027-01-01 --strict --json")]
struct Check {
    /// The trust file
    file: PathBuf,

    /// As of this time instead of now: 2026-12-31, or 2026-12-31T12:00:00Z
    #[arg(long, value_name = "DATE")]
    at: Option<Moment>,

    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
}

impl Trust {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let TrustVerb::Check(verb) = &self.verb;
        verb.run()
    }
}

impl Check {
    fn run(&self) -> Result<Checked, Failure> {
        let store = TrustStore::load(&self.file)?;
        let findings = store.findings(time(self.at));
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        let warnings = findings.len() - errors;
        let checked = Checked { file: self.file.clone(), errors, warnings, findings };
        if errors > 0 || self.strict && warnings > 0 {
            let failure = Failure::here("trust-policy", checked.summary());
            return Err(failure.with_details(&checked, checked.lines().collect()));
        }
        Ok(checked)
    }
}

#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

impl Checked {
    fn summary(&self) -> String {
        let Self { errors, warnings, .. } = self;
        format!("{}: {errors} errors, {warnings} warnings", self.file.display())
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        self.findings.iter().map(|Finding { severity, code, message, .. }| {
            let severity = match severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            format!("{severity}: {message} [{code}]")
        })
    }
}

impl Report for Checked {
    fn text(&self) -> String {
        self.lines().chain([self.summary()]).collect::<Vec<_>>().join("\n")
    }
}
