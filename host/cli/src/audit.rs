//! `stepbox audit`: the record of who did what.

mod tail;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stepbox_audit::files_of;

use crate::output::{Failure, Format};

/// Check and read a server's audit log
#[derive(Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Subcommand)]
enum AuditVerb {
    Verify(verify::Verify),
    Tail(tail::TailVerb),
}

impl Audit {
    pub(crate) fn run(&self, format: Format) -> Result<(), Failure> {
        match &self.verb {
            AuditVerb::Verify(verb) => verb.run(format),
            AuditVerb::Tail(verb) => verb.run(format),
        }
    }
}

/// The files that are named, and those in the directories that are named.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => files.extend(files_of(path)?),
            false => files.push(path.clone()),
        }
    }
    Ok(files)
}
