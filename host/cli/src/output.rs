//! How a verb's outcome reaches a person or a script: text or JSON, and an exit code.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use stepbox_audit::AuditError;
use stepbox_client::ClientError;
use stepbox_trust::{KeyError, SignError, TrustError, TrustStoreError};

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
            Self::Text => report.text(),
            Self::Json => serde_json::to_string(report)
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
        formatter.write_str(&self.message)?;
        self.lines.iter().try_for_each(|line| write!(formatter, "\n{line}"))
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
        let message = error.to_string();
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

/// Makes text that comes out of a component harmless for a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match stepbox_trust::is_unseen(character) {
            true => character.escape_default().to_string(),
            false => character.to_string(),
        })
        .collect()
}
