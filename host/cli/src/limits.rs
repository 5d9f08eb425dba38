//! `stepbox limits`: what a server lets its peers and optimizers use, and why.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use stepbox_server::{Config, Number, limits_in_force};

use crate::output::{Failure, Report};

/// Widest line of a reason.
const COLUMNS: usize = 100;

/// Show every limit of a configuration, with its default and its reason
#[derive(Args)]
#[command(after_help = "\
Each limit stands under its name in the configuration; set it in that section of the server's TOML file. What differs
from its default is shown with it. docs/limits.md has what happens at each, and limits that are fixed.

Examples:
  stepbox limits
  stepbox limits --config server.toml --json")]
pub(crate) struct Limits {
    /// The server's configuration; the defaults are shown without
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Limits {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let config = match &self.config {
            Some(path) => Some(
                Config::load(path)
                    .map_err(|error| Failure::here("configuration", error.to_string()).about(path.display()))?,
            ),
            None => None,
        };
        let limits = limits_in_force(config.as_ref())
            .into_iter()
            .map(|limit| Row {
                name: format!("{}.{}", limit.section, limit.name),
                value: limit.value,
                default: limit.default,
                unit: limit.unit,
                reason: limit.reason,
            })
            .collect();
        Ok(InForce { limits })
    }
}

#[derive(Serialize)]
struct InForce {
    limits: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    value: Number,
    default: Number,
    unit: &'static str,
    reason: &'static str,
}

impl Report for InForce {
    fn text(&self) -> String {
        let mut text = String::new();
        for Row { name, value, default, unit, reason } in &self.limits {
            let of_default =
                if value == default { String::new() } else { format!(" (unless set: {})", written(*default)) };
            text += &format!("{name} = {} {unit}{of_default}\n{}", written(*value), wrapped(reason));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// As it can be written in the configuration.
fn written(number: Number) -> String {
    match number {
        Number::Count(count) => count.to_string(),
        Number::Seconds(seconds) => format!("{seconds:?}"),
    }
}

/// Lines of words, indented.
fn wrapped(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + word.len() + 1 > COLUMNS {
            lines += &format!("   {line}\n");
            line.clear();
        }
        line += &format!(" {word}");
    }
    lines + &format!("   {line}\n")
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn reasons_are_broken_between_words() {
        let text = "word ".repeat(50);
        let lines = wrapped(&text);
        assert!(lines.lines().all(|line| line.starts_with("    word") && line.len() <= super::COLUMNS + 4));
        assert_eq!(lines.split_whitespace().count(), 50);
    }
}
