//! `stepbox protections`: what would a server's process be protected by on this machine?

use std::fmt::Write;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use stepbox_server::{Config, Protection};

use crate::hardening::{Hardening, start_broker};
use crate::output::{Failure, Format, Report};

/// Try what a server's process may do on this machine
#[derive(Args)]
#[command(after_help = "\
Gives up what `stepbox serve` gives up with this configuration, and then tries what whoever takes a server over would
try. Exits with 0 where all of it fails, and with 1 otherwise. No server is started.

Example:
  stepbox protections --config server.toml")]
pub(crate) struct Protections {
    /// The server's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Go on as root
    #[arg(long)]
    allow_root: bool,
}

impl Protections {
    pub(crate) fn run(&self, format: Format) -> Result<(), Failure> {
        let config = Config::load(&self.config)
            .map_err(|error| Failure::here("configuration", error.to_string()).about(self.config.display()))?;
        // What is tried needs something to be tried on, from before.
        let listener = TcpListener::bind("127.0.0.1:0");
        let address = listener.as_ref().map(TcpListener::local_addr);
        let address = address.unwrap_or_else(|error| Err(error.kind().into()));
        let (broker, confined) = start_broker(&config)?;
        drop(broker);
        let mut hardening = Hardening::begin(&config, self.allow_root)?;
        hardening.note_compiler(confined)?;
        hardening.confine_files(&config, &self.config)?;
        hardening.confine_calls()?;

        let own = config.state_directory.join(format!("protections.{}", std::process::id()));
        fs::write(&own, "").and_then(|()| fs::remove_file(&own)).map_err(|error| {
            Failure::here("protection", format!("the server could not write its own {}: {error}", own.display()))
        })?;
        let beside = self.config.with_file_name(format!("protections.{}", std::process::id()));
        let elsewhere = std::env::temp_dir().join(format!("stepbox-protections.{}", std::process::id()));
        let write = |path: &Path| fs::write(path, "").inspect(|()| drop(fs::remove_file(path)));
        let attempts = vec![
            Attempt::new("run a program", std::process::Command::new("/bin/sh").args(["-c", "true"]).status()),
            Attempt::new("run itself", std::process::Command::new("/proc/self/exe").arg("--version").output()),
            Attempt::new("read /etc/passwd", fs::read("/etc/passwd")),
            Attempt::new("write beside the configuration", write(&beside)),
            Attempt::new("write elsewhere", write(&elsewhere)),
            Attempt::new("listen on another port", TcpListener::bind("127.0.0.1:0")),
            Attempt::new("connect to somewhere", address.and_then(TcpStream::connect)),
        ];
        let report = Tried { protections: hardening.into_protections(), attempts };
        format.print(&report)?;
        match report.attempts.iter().filter(|attempt| !attempt.prevented).count() {
            0 => Ok(()),
            count => {
                Err(Failure::here("protection", format!("{count} of {} were not prevented", report.attempts.len())))
            }
        }
    }
}

#[derive(Serialize)]
struct Tried {
    protections: Vec<Protection>,
    attempts: Vec<Attempt>,
}

#[derive(Serialize)]
struct Attempt {
    attempt: &'static str,
    prevented: bool,
    /// What the system said.
    answer: String,
}

impl Attempt {
    fn new<T>(attempt: &'static str, outcome: std::io::Result<T>) -> Self {
        Self {
            attempt,
            prevented: outcome.is_err(),
            answer: outcome.map_or_else(|error| error.to_string(), |_| "done".to_owned()),
        }
    }
}

impl Report for Tried {
    fn text(&self) -> String {
        let mut text = String::new();
        for Protection { name, active, detail } in &self.protections {
            let state = if *active { "active" } else { "NOT ACTIVE" };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<12} {state}: {detail}");
        }
        for Attempt { attempt, prevented, answer } in &self.attempts {
            let state = if *prevented { "prevented" } else { "NOT PREVENTED" };
            let _ = writeln!(text, "{attempt:<31} {state}: {answer}");
        }
        text.truncate(text.trim_end().len());
        text
    }
}
