//! What the demonstration found, for people and for scripts.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::attempts::Refusal;
use super::comparison::{Comparison, PARAMETERS};
use super::{WANTED_ACCURACY, WORKERS};

/// Columns that the server's reasons are wrapped to.
const REASON_COLUMNS: usize = 100;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Share of held-out images that the trained model reads right.
    pub accuracy: f64,
    /// Rounds trained.
    pub rounds: u64,
    /// Rounds in a second, of all four workers together, by the slowest one's clock.
    pub rounds_per_second: f64,
    /// What the sandbox costs.
    pub comparison: Comparison,
    /// SHA-256 of the server's weights.
    pub weights_sha256: String,
    /// Whether the workers ended with the server's weights.
    pub workers_agree: bool,
    /// Whether the same training without server and sandbox gives the same bits.
    pub native_agrees: bool,
    /// What became of the attempts.
    pub refusals: Vec<Refusal>,
}

impl Outcome {
    /// Whether all that the demonstration claims held.
    pub fn held(&self) -> bool {
        self.accuracy >= WANTED_ACCURACY
            && self.workers_agree
            && self.native_agrees
            && self.refusals.iter().all(Refusal::held)
    }

    /// One object, for scripts.
    ///
    /// # Errors
    /// None that can come up: all of it has a form in JSON.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&Object {
            accuracy: self.accuracy,
            rounds_per_second: self.rounds_per_second,
            update_ratio_to_native: self.comparison.ratio(),
            weights_sha256: &self.weights_sha256,
            refusals: &self.refusals,
            ok: self.held(),
        })
    }
}

/// What scripts read. Fields are only ever added.
#[derive(Serialize)]
struct Object<'a> {
    accuracy: f64,
    rounds_per_second: f64,
    update_ratio_to_native: f64,
    weights_sha256: &'a str,
    refusals: &'a [Refusal],
    ok: bool,
}

/// A table, for people.
impl Display for Outcome {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Comparison { sandboxed, native } = self.comparison;
        let mut line = |name: &str, value: String| writeln!(formatter, "  {name:<20} {value}");
        let bits = match (self.workers_agree, self.native_agrees) {
            (true, true) => "the workers and a native run have the same bits",
            (false, _) => "BUT THE WORKERS HAVE OTHER BITS",
            (_, false) => "BUT A NATIVE RUN HAS OTHER BITS",
        };
        line(
            "held-out accuracy",
            format!("{:.1} % (wanted: {:.0} %)", self.accuracy * 100.0, WANTED_ACCURACY * 100.0),
        )?;
        line(
            "rounds per second",
            format!("{:.0} ({} rounds, {WORKERS} workers)", self.rounds_per_second, self.rounds),
        )?;
        line(
            "update time",
            format!(
                "{:.2} × native ({:.2} ms against {:.2} ms for {PARAMETERS} parameters)",
                self.comparison.ratio(),
                sandboxed.as_secs_f64() * 1e3,
                native.as_secs_f64() * 1e3,
            ),
        )?;
        line("weights", format!("{}…, {bits}", self.weights_sha256.get(..16).unwrap_or(&self.weights_sha256)))?;

        writeln!(formatter, "\n  {:<20} {:<10} model", "attempt", "refused")?;
        for refusal in &self.refusals {
            let refused = if refusal.refused { "yes" } else { "NO" };
            let model = if refusal.model_unchanged { "unchanged" } else { "CHANGED" };
            writeln!(formatter, "  {:<20} {refused:<10} {model}", refusal.attempt)?;
            for line in wrapped(&refusal.reason) {
                writeln!(formatter, "      {line}")?;
            }
        }
        write!(formatter, "\n  {}", if self.held() { "All of it held." } else { "NOT ALL OF IT HELD." })
    }
}

/// The text's words in lines of at most [`REASON_COLUMNS`], unless a word is longer.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > REASON_COLUMNS {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn good() -> Outcome {
        Outcome {
            accuracy: 0.97,
            rounds: 600,
            rounds_per_second: 321.0,
            comparison: Comparison { sandboxed: Duration::from_micros(1500), native: Duration::from_micros(1000) },
            weights_sha256: "abab".into(),
            workers_agree: true,
            native_agrees: true,
            refusals: vec![Refusal {
                attempt: "unsigned",
                refused: true,
                reason: "no signature".into(),
                model_unchanged: true,
            }],
        }
    }

    #[test]
    fn the_object_has_what_scripts_read() {
        let expected = concat!(
            r#"{"accuracy":0.97,"rounds_per_second":321.0,"update_ratio_to_native":1.5,"weights_sha256":"abab","#,
            r#""refusals":[{"attempt":"unsigned","refused":true,"reason":"no signature","model_unchanged":true}],"#,
            r#""ok":true}"#,
        );
        assert_eq!(good().json().unwrap(), expected);
    }

    #[test]
    fn anything_that_did_not_hold_spoils_it() {
        assert!(good().held());
        let spoilers: [fn(&mut Outcome); 5] = [
            |outcome| outcome.accuracy = 0.959,
            |outcome| outcome.workers_agree = false,
            |outcome| outcome.native_agrees = false,
            |outcome| outcome.refusals[0].refused = false,
            |outcome| outcome.refusals[0].model_unchanged = false,
        ];
        for spoil in spoilers {
            let mut outcome = good();
            spoil(&mut outcome);
            assert!(!outcome.held());
            assert!(outcome.json().unwrap().ends_with(r#""ok":false}"#));
            assert!(outcome.to_string().contains("NOT ALL OF IT HELD"));
        }
    }

    #[test]
    fn reasons_are_wrapped_between_words() {
        let text = "word ".repeat(60);
        let lines = wrapped(&text);
        assert!(lines.len() == 3 && lines.iter().all(|line| line.len() <= REASON_COLUMNS));
        assert_eq!(lines.join(" "), text.trim());
        assert_eq!(wrapped(""), [""]);
    }
}
