//! How a verb's outcome reaches a person or a script: text or JSON, and an exit code.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::Serialize;
use stepbox_audit::AuditError;
use stepbox_client::ClientError;
use stepbox_trust::{KeyError, SignError, TrustError, TrustStoreError, is_unseen};

pub(crate) use stepbox_trust::printable;

use crate::exit_code;

/// Shown under `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed here: a file, the configuration, this program
  2  wrong usage
  3  refused by the server for a reason that has no code of its own; those that have:
     10 too large  11 signature  12 digest  13 trust policy  14 version  15 what the component consists of
     16 imports and resources  17 compilation  18 trial  19 hyperparameter  20 no right  21 not now
     22 not there  23 an audit log that was changed
  4  no server: unreachable, not ours, lost or silent

With --json a failure prints {\"error\": {\"code\": ..., \"message\": ...}} on standard output as well,
with a \"reason\" where a code has several.";

/// What a verb found or did.
pub(crate) trait Report: Serialize {
    /// For people; several lines, the last without its end.
    fn text(&self) -> String;
}

/// The form a report is printed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For scripts: one object, one line.
    Json,
}

impl Format {
    /// Prints a report on standard output.
    pub(crate) fn print(self, report: &impl Report) -> Result<(), Failure> {
        let line = match self {
            Self::Text => printable_lines(&report.text()),
            Self::Json => serde_json::to_string(report)
                .map(|json| json_escaped(&json))
                .map_err(|error| Failure::here("output", format!("cannot write JSON: {error}")))?,
        };
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            // Whoever reads has seen enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::here("output", format!("cannot write to standard output: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Says on standard error what went wrong, and makes an exit code of it.
    pub(crate) fn fail(self, failure: &Failure) -> ExitCode {
        if self == Self::Json {
            // The exit code tells the script of it also where this cannot be written.
            let _ = self.print(&ErrorReport { error: failure });
        }
        let _ = writeln!(io::stderr(), "error: {failure}");
        ExitCode::from(failure.exit_code())
    }
}

/// Who or what stands in the way, as an exit code. 2 is clap's, for wrong usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Here = 1,
    Refused = exit_code::REFUSED as isize,
    NoServer = 4,
}

/// Why a verb ended without doing what it should.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    #[serde(skip)]
    kind: Kind,
    code: String,
    /// One reason among several that the code has.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Box<serde_json::Value>>,
    /// The details for people, line by line.
    #[serde(skip)]
    lines: Vec<String>,
}

#[derive(Serialize)]
struct ErrorReport<'a> {
    error: &'a Failure,
}

impl Report for ErrorReport<'_> {
    fn text(&self) -> String {
        self.error.to_string()
    }
}

impl Failure {
    /// A file, the configuration or this program is at fault.
    pub(crate) fn here(code: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Here, code, message.into())
    }

    /// What was looked at is not as it was made.
    pub(crate) fn tampered(message: String) -> Self {
        Self::refused("tampered", message)
    }

    fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Refused => exit_code::of_refusal(&self.code, self.reason.as_deref()),
            kind => kind as u8,
        }
    }

    fn refused(code: &str, message: String) -> Self {
        Self::new(Kind::Refused, code, message)
    }

    fn new(kind: Kind, code: &str, message: String) -> Self {
        Self { kind, code: code.to_owned(), reason: None, message, details: None, lines: Vec::new() }
    }

    /// Adds what else there is to say: for scripts, and in lines for people.
    pub(crate) fn with_details(self, details: &impl Serialize, lines: Vec<String>) -> Self {
        // What cannot be written as JSON is left out; the message is there.
        Self { details: serde_json::to_value(details).ok().map(Box::new), lines, ..self }
    }

    /// Puts words before the message, such as the name of the file it is about.
    pub(crate) fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&printable_lines(&self.message))?;
        self.lines.iter().try_for_each(|line| write!(formatter, "\n{}", printable(line)))
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::here("key", error.to_string())
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Self::here("audit-log", error.to_string())
    }
}

impl From<TrustStoreError> for Failure {
    fn from(error: TrustStoreError) -> Self {
        Self::here("trust-file", error.to_string())
    }
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        Self::refused(error.name(), error.to_string())
    }
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        match error {
            // Nobody refused anything: the publisher holds the wrong file.
            SignError::Component(error) => Self::here(error.name(), error.to_string()),
            SignError::Signed => Self::here("signed", format!("{error} (`--replace`, `--add`)")),
            SignError::SignedByThisKey { .. } | SignError::TooManySignatures => Self::here("signed", error.to_string()),
            SignError::Changed => Self::here("bad-signature", error.to_string()),
            SignError::WrongSignature { .. } => Self::here("wrong-signature", error.to_string()),
            error => Self::here("manifest", error.to_string()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        // One line: what a server says cannot look like something else.
        let message = printable(&error.to_string());
        let (kind, code) = match &error {
            ClientError::Refused { code, .. } => (Kind::Refused, code.name()),
            ClientError::Unreachable { .. } => (Kind::NoServer, "unreachable"),
            ClientError::Handshake { .. } => (Kind::NoServer, "handshake"),
            ClientError::ConnectionLost { .. } => (Kind::NoServer, "connection-lost"),
            ClientError::TimedOut { .. } => (Kind::NoServer, "no-answer"),
            ClientError::Protocol { .. } => (Kind::NoServer, "protocol"),
            ClientError::Credential { .. } => (Kind::Here, "credential"),
            ClientError::ServerName { .. } => (Kind::Here, "server-name"),
            _ => (Kind::Here, "request"),
        };
        let reason = error.reason().map(str::to_owned);
        Self { reason, ..Self::new(kind, code, message) }
    }
}

/// [`printable`], line by line: for a text whose lines are this program's own.
fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// A name that somebody else has chosen, within a line: as it is where it is plain, and otherwise in quotation marks and
/// without what could pass for a column or wrap onto a line of its own.
pub(crate) fn quoted(name: &str) -> String {
    let is_plain = |character: char| character.is_alphanumeric() || "-_./:@+".contains(character);
    if !name.is_empty() && name.chars().all(is_plain) {
        return name.to_owned();
    }
    let (mut text, mut before) = (String::from("\""), '"');
    for character in name.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            ' ' if before == ' ' => text.push_str("\\u{20}"),
            ' ' => text.push(' '),
            _ if character.is_whitespace() || is_unseen(character) => text.extend(character.escape_default()),
            _ => text.push(character),
        }
        before = character;
    }
    text.push('"');
    text
}

/// JSON in which no character does anything to a terminal: it says the same, with `\u202e` and the like. The line feed at
/// its end stays.
pub(crate) fn json_escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character != '\n' && is_unseen(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_column_and_line() {
        for plain in ["encoder.layers.0/weight:0", "größe", "spiffe://a.b/c"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(quoted("w  [4]  version 9"), r#""w \u{20}[4] \u{20}version 9""#);
        assert_eq!(quoted("w\nwarning      none"), r#""w\nwarning \u{20}\u{20}\u{20}\u{20}\u{20}none""#);
        assert_eq!(quoted("\u{202e}\u{feff}\u{a0}\u{3000}"), r#""\u{202e}\u{feff}\u{a0}\u{3000}""#);
        assert_eq!(quoted("\"\\"), r#""\"\\""#);
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn escaped_json_says_the_same() {
        let value = serde_json::json!({ "key": "a\u{202e}\u{feff}\u{e0001}\u{7f}\n\"ä" });
        let escaped = json_escaped(&(value.to_string() + "\n"));
        assert!(escaped.contains(r"\u202e\ufeff\udb40\udc01\u007f\n"), "{escaped}");
        assert!(!escaped.trim_end().contains(is_unseen));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).expect("JSON"), value);
    }
}
