//! `stepbox`: the command line of the Stepbox parameter server.
//!
//! One file for each verb. A verb returns a report or a failure; this file prints it, as text or as JSON, and makes an
//! exit code of it. `docs/cli.md` describes all of it.
#![forbid(unsafe_code)]

mod activate;
mod admission;
mod audit;
mod bench;
mod ca;
mod connection;
mod deploy;
mod deployment_file;
mod digest;
mod exit_code;
mod files;
mod hardening;
mod inspect;
mod key;
mod limits;
mod optimizers;
mod output;
mod plan;
mod protections;
mod rollback;
mod schedule;
mod serve;
mod sign;
mod signer;
mod status;
mod submit;
mod trust;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::{EXIT_CODES, Format};

/// A parameter server that takes optimizers only as signed WebAssembly components.
#[derive(Parser)]
#[command(name = "stepbox", version, propagate_version = true, after_help = EXIT_CODES)]
struct CommandLine {
    /// Print one JSON object on standard output instead of text
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Ca(ca::Ca),
    Key(key::Key),
    Sign(sign::Sign),
    Verify(verify::Verify),
    Trust(trust::Trust),
    Inspect(inspect::Inspect),
    Optimizers(optimizers::Optimizers),
    Serve(serve::Serve),
    Deploy(deploy::Deploy),
    Submit(submit::Submit),
    Submissions(submit::Submissions),
    Activate(activate::Activate),
    Rollback(rollback::Rollback),
    Schedule(schedule::Schedule),
    Status(status::Status),
    Limits(limits::Limits),
    Audit(audit::Audit),
    Protections(protections::Protections),
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    // Before anything else: a process that compiles takes from itself what it does not need.
    if let Some(code) = stepbox_sandbox::compile_process(hardening::confine_compiler) {
        return code;
    }
    let CommandLine { json, verb } = CommandLine::parse();
    let format = if json { Format::Json } else { Format::Text };
    let result = match verb {
        Verb::Ca(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Key(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Sign(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Verify(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Trust(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Inspect(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Optimizers(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Serve(verb) => verb.run(format),
        Verb::Deploy(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Submit(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Submissions(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Activate(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Rollback(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Schedule(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Status(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Limits(verb) => verb.run().and_then(|report| format.print(&report)),
        Verb::Audit(verb) => verb.run(format),
        Verb::Protections(verb) => verb.run(format),
        Verb::Bench(verb) => verb.run(format),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => format.fail(&failure),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        super::CommandLine::command().debug_assert();
    }
}
