//! What really came back from an attack.

use std::io;

use stepbox_client::ClientError;
use stepbox_wire::{Failure, Response};

use crate::arena::NotStarted;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What expectations are held against: the server's own code such as `untrusted`, an alert of TLS such as
    /// `alert UnknownCA`, or what was seen to happen.
    pub code: String,
    /// The rest of it, in the server's words where it had some.
    pub words: String,
}

/// The code of an attack that succeeded.
pub const ACCEPTED: &str = "accepted";

/// The code of a connection that ended without a word.
pub const CLOSED: &str = "closed";

impl Answer {
    /// Something that was seen.
    pub fn new(code: impl Into<String>, words: impl Into<String>) -> Self {
        Self { code: code.into(), words: words.into() }
    }

    /// What a request through the client ended in.
    pub fn of<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> Self {
        match outcome {
            Ok(answer) => Self::new(ACCEPTED, format!("{answer:?}")),
            Err(ClientError::Refused { code, message, .. }) => Self::new(code.name(), message),
            Err(ClientError::Handshake { reason, .. }) => Self::of_reason(&reason),
            Err(ClientError::ConnectionLost { reason }) => Self::new(CLOSED, reason),
            Err(other) => Self::new("client", other.to_string()),
        }
    }

    /// What a raw connection ended in. `None` is a connection that the server has closed.
    pub fn of_response(response: Option<Response>) -> Self {
        match response {
            None => Self::new(CLOSED, "the server closed the connection"),
            Some(Response::Failed(failure)) => failure.into(),
            Some(Response::Pushed { repeated: true }) => Self::new("repeated", "the push was there before"),
            Some(Response::Initialized { created: false, .. }) => Self::new("not-created", "the key has its value"),
            Some(other) => Self::new(ACCEPTED, format!("{other:?}")),
        }
    }

    /// What a connection ended in that was not even one.
    pub fn of_error(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                Self::new(CLOSED, error.to_string())
            }
            _ => Self::of_reason(&error.to_string()),
        }
    }

    /// The alert is what TLS answers with; rustls has it in its text alone.
    fn of_reason(reason: &str) -> Self {
        let alert = reason.split_once("received fatal alert: ").map(|(_, alert)| alert);
        match alert
            .and_then(|alert| alert.split(|letter: char| !letter.is_alphanumeric()).find(|word| !word.is_empty()))
        {
            Some("the") | None => Self::new("tls", reason),
            Some(alert) => Self::new(format!("alert {alert}"), "TLS ended in the handshake"),
        }
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code.name(), failure.message)
    }
}

impl From<NotStarted> for Answer {
    fn from(NotStarted { code, message }: NotStarted) -> Self {
        Self::new(code, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_known_by_its_name() {
        let error = io::Error::new(io::ErrorKind::InvalidData, "received fatal alert: UnknownCA");
        assert_eq!(Answer::of_error(&error).code, "alert UnknownCA");
        assert_eq!(Answer::of_error(&io::Error::other("something")).code, "tls");
    }
}
