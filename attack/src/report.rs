//! What became of the attacks, for people and for scripts.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::threat::Threat;

/// Columns that outcomes are wrapped to.
const COLUMNS: usize = 100;

/// Letters of an outcome that are shown to people.
const SHOWN: usize = 280;

/// What became of one attack. Fields are only ever added.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The threat it is on.
    pub threat: Threat,
    /// What was tried.
    pub attack: String,
    /// What came back: a code, and what was said with it.
    pub outcome: String,
    /// Whether that is what must come of it.
    pub contained: bool,
    /// Whether the server's process is alive and answers, with the right optimizer, and has not panicked.
    pub server_healthy: bool,
    /// Whether everybody trained on, to weights that are bit for bit those of a run that nobody disturbed.
    pub training_went_on: bool,
    /// Whether the server's resident memory has stayed below the ceiling at every moment.
    pub memory_bounded: bool,
    /// The most memory of the server's process that was resident at any moment, in bytes.
    pub peak_resident_bytes: u64,
    /// The most that may be, in bytes.
    pub memory_ceiling_bytes: u64,
    /// The codes that contain it.
    pub expected: Vec<&'static str>,
    /// Rounds done from before the attack until after it.
    pub rounds: u64,
    /// How long all of it took, with the rounds after the attack and those of the run that nobody disturbed.
    pub seconds: f64,
    /// What was wrong with the server or the training; empty where nothing was.
    pub remark: String,
}

impl Row {
    /// Whether everything is as it must be.
    pub fn held(&self) -> bool {
        self.contained && self.server_healthy && self.training_went_on && self.memory_bounded
    }
}

/// A table of rows, by threat.
pub struct Table<'a>(pub &'a [Row]);

impl Display for Table<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut threat = None;
        for row in self.0 {
            if threat != Some(row.threat) {
                threat = Some(row.threat);
                writeln!(formatter, "\n{}", row.threat)?;
            }
            writeln!(
                formatter,
                "  {} {:<66} {:<14} {:<9} {:<18} {:>5} MiB{}",
                if row.held() { " " } else { "!" },
                row.attack,
                if row.contained { "contained" } else { "NOT CONTAINED" },
                if row.server_healthy { "healthy" } else { "UNHEALTHY" },
                if row.training_went_on { "trained on" } else { "TRAINING DISTURBED" },
                row.peak_resident_bytes >> 20,
                if row.memory_bounded { "" } else { ", TOO MUCH MEMORY" },
            )?;
            let outcome: String = row.outcome.chars().take(SHOWN).collect();
            let cut = if row.outcome.chars().count() > SHOWN { " …" } else { "" };
            for line in wrapped(&format!("{outcome}{cut}")) {
                writeln!(formatter, "        {line}")?;
            }
            if !row.contained {
                writeln!(formatter, "        wanted: {}", row.expected.join(", or "))?;
            }
            if !row.remark.is_empty() {
                writeln!(formatter, "        {}", row.remark)?;
            }
        }
        let held = self.0.iter().filter(|row| row.held()).count();
        let rounds: u64 = self.0.iter().map(|row| row.rounds).sum();
        let peak = self.0.iter().map(|row| row.peak_resident_bytes).max().unwrap_or(0);
        write!(
            formatter,
            "\n{held} of {} attacks refused or contained; {rounds} rounds trained meanwhile; {} MiB resident at most",
            self.0.len(),
            peak >> 20
        )
    }
}

/// The text's words in lines of at most [`COLUMNS`], unless a word is longer.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() || line.chars().count() + 1 + word.chars().count() <= COLUMNS => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(contained: bool, server_healthy: bool, training_went_on: bool, memory_bounded: bool) -> Row {
        Row {
            threat: Threat::Forgery,
            attack: "unsigned".into(),
            outcome: "untrusted: it is not signed".into(),
            contained,
            server_healthy,
            training_went_on,
            memory_bounded,
            peak_resident_bytes: 60 << 20,
            memory_ceiling_bytes: 512 << 20,
            expected: vec!["untrusted"],
            rounds: 7,
            seconds: 0.5,
            remark: String::new(),
        }
    }

    #[test]
    fn a_row_holds_only_if_all_of_it_does() {
        assert!(row(true, true, true, true).held());
        for wrong in 0..4 {
            let row = row(wrong != 0, wrong != 1, wrong != 2, wrong != 3);
            assert!(!row.held());
            assert!(Table(&[row]).to_string().contains("0 of 1"));
        }
    }

    #[test]
    fn scripts_find_the_names_they_expect() {
        let json = serde_json::to_value(row(true, true, true, true)).unwrap();
        for name in [
            "threat",
            "attack",
            "outcome",
            "peak_resident_bytes",
            "contained",
            "server_healthy",
            "training_went_on",
            "memory_bounded",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["threat"], Threat::Forgery.words());
    }
}
