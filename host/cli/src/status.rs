//! `stepbox status`: how a server is.

use std::fmt::Write;

use clap::Args;
use serde::Serialize;
use stepbox_client::{DEFAULT_JOB, DeploymentStatus, OptimizerStatus, RevokedOptimizer, ServerStatus};

use crate::connection::Connection;
use crate::output::{Failure, Report, printable, quoted};
use crate::schedule;

/// Show how a server is
#[derive(Args)]
#[command(after_help = "\
Example:
  stepbox status --server 10.0.0.7:7437 --ca ca.pem --certificate bob.pem --key bob.key")]
pub(crate) struct Status {
    /// Have the server hash all weights too, which takes a while for large models
    #[arg(long)]
    weights_digest: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        self.connection.with_client(async |client| client.status(self.weights_digest).await).map(Shown)
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Shown(ServerStatus);

impl Report for Shown {
    fn text(&self) -> String {
        let status = &self.0;
        let mut text = String::new();
        // Nothing that a peer, a file or an optimizer says makes a line of its own. Writing to a string does not fail.
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<12} {}", printable(&value));
        };
        line("software", status.software.clone());
        line("up for", duration(status.uptime_seconds));
        if status.job != DEFAULT_JOB {
            line("job", status.job.clone());
        }
        line("optimizer", status.optimizer.as_ref().map_or_else(|| "none".to_owned(), optimizer));
        if let Some((pending, round)) = &status.pending_optimizer {
            line("pending", format!("{}, from round {round} on", optimizer(pending)));
        }
        let DeploymentStatus { standing, revoked, previous, trust_error } = &status.deployment;
        for RevokedOptimizer { optimizer, message, .. } in revoked {
            line(standing.name(), format!("{} {}: {message}", quoted(&optimizer.name), quoted(&optimizer.version)));
        }
        if let Some(error) = trust_error {
            line("trust file", format!("CANNOT BE USED, nothing is deployed until it can: {error}"));
        }
        for before in previous {
            line("before", format!("{} {}, digest {}", quoted(&before.name), quoted(&before.version), before.digest));
        }
        if let (Some(rate), Some(schedule)) = (status.learning_rate, &status.schedule) {
            line("rate", format!("{rate}; {}", schedule::describe(schedule)));
        }
        if let Some(pending) = &status.pending_schedule {
            line("pending", schedule::describe(pending));
        }
        line(
            "updates",
            format!(
                "{}, {:.0} µs each on {} shard threads",
                status.updates, status.mean_update_microseconds, status.shard_threads
            ),
        );
        line("refusals", status.refusals.to_string());
        for warning in &status.warnings {
            line("warning", warning.clone());
        }
        let connected = status.workers.iter().filter(|worker| worker.connected).count();
        line("workers", format!("{connected} of {} connected", status.workers.len()));
        for worker in &status.workers {
            let state = if worker.connected { "connected" } else { "away" };
            line("", format!("{:>4}  {}  {state}", worker.rank, quoted(&worker.identity)));
        }
        line("keys", status.keys.len().to_string());
        for key in &status.keys {
            let group = if key.group.is_empty() { String::new() } else { format!(", group {}", quoted(&key.group)) };
            let shape = &key.tensor.shape;
            let (name, version, slices) = (quoted(&key.key), key.version, key.slices);
            line("", format!("{name}  {shape:?}  version {version}, {slices} slices{group}"));
        }
        if let Some(digest) = &status.weights_digest {
            line("weights", digest.clone());
        }
        match &status.audit {
            Some(audit) => {
                line("audit", format!("{}:{}, {} events lost", audit.line, audit.head, audit.lost));
                for (name, reason) in [("cannot be written", &audit.failing), ("damaged", &audit.damaged)] {
                    if let Some(reason) = reason {
                        line("", format!("{name}: {reason}"));
                    }
                }
            }
            None => line("audit", "switched off".to_owned()),
        }
        if let Some(log) = &status.log {
            line("log", format!("{} lines lost", log.lost_lines));
            if let Some(reason) = &log.failing {
                line("", format!("cannot be written: {reason}"));
            }
        }
        for (index, protection) in status.protections.iter().enumerate() {
            let name = if index == 0 { "protection" } else { "" };
            let state = if protection.active { "active" } else { "NOT ACTIVE" };
            line(name, format!("{}: {state}: {}", protection.name, protection.detail));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn optimizer(status: &OptimizerStatus) -> String {
    format!("{} {}, signed with key {}", quoted(&status.name), quoted(&status.version), status.publisher)
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
