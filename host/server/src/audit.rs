//! What is remembered of who did what: one [`Event`] for each security decision.
#![allow(dead_code, reason = "features that come with their events use the rest")]

use std::net::SocketAddr;

use stepbox_wire::ErrorCode;

use crate::identity::Identity;

/// What somebody did or tried to do. The names are what readers of the log branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Action {
    /// A request was refused.
    Request,
    /// A connection was let into a job.
    Connect,
    /// The certificate of an open connection is good no more.
    Certificate,
    /// Files were read again.
    Reload,
    /// Rights of a job were changed.
    Rights,
}

impl Action {
    /// As it stands in the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Connect => "connect",
            Self::Certificate => "certificate",
            Self::Reload => "reload",
            Self::Rights => "rights",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was done.
    Allowed,
    /// It was not.
    Refused,
}

/// One security decision.
#[derive(Debug, Clone)]
pub(crate) struct Event<'a> {
    pub action: Action,
    pub outcome: Outcome,
    /// Who, where the certificate says so.
    pub identity: Option<&'a Identity>,
    /// From where, where that is known.
    pub peer: Option<SocketAddr>,
    /// Why it was refused.
    pub code: Option<ErrorCode>,
    /// What it was about: a key, an optimizer's digest, a file.
    pub subject: &'a str,
    /// For people; may quote what a peer or a component said.
    pub reason: &'a str,
}

impl<'a> Event<'a> {
    /// Something that was done.
    pub(crate) fn allowed(action: Action) -> Self {
        Self { action, outcome: Outcome::Allowed, identity: None, peer: None, code: None, subject: "", reason: "" }
    }

    /// Something that was refused.
    pub(crate) fn refused(action: Action, reason: &'a str) -> Self {
        Self { outcome: Outcome::Refused, reason, ..Self::allowed(action) }
    }

    pub(crate) fn by(self, identity: &'a Identity) -> Self {
        Self { identity: Some(identity), ..self }
    }

    pub(crate) fn from(self, peer: SocketAddr) -> Self {
        Self { peer: Some(peer), ..self }
    }

    pub(crate) fn about(self, subject: &'a str) -> Self {
        Self { subject, ..self }
    }

    pub(crate) fn code(self, code: ErrorCode) -> Self {
        Self { code: Some(code), ..self }
    }
}

/// Where events go.
#[derive(Debug, Default)]
pub(crate) struct Audit;

impl Audit {
    /// Notes an event. Never fails and never waits for long.
    pub(crate) fn record(&self, event: &Event<'_>) {
        let Event { action, outcome, identity, peer, code, subject, reason } = event;
        let action = action.name();
        let identity = identity.map_or("", Identity::as_str);
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        let code = code.map_or("", ErrorCode::name);
        match outcome {
            Outcome::Allowed => tracing::info!(action, %identity, peer, subject, "allowed"),
            Outcome::Refused => tracing::warn!(action, %identity, peer, subject, %code, reason, "refused"),
        }
    }
}
