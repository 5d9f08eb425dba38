//! What is remembered of who did what: one [`Event`] for each security decision.
#![allow(dead_code, reason = "features that come with their events use the rest")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stepbox_audit::{AuditError, AuditLog, Outcome, Record, START, STOP};
use stepbox_trust::SigningKey;
use stepbox_wire::{AuditStatus, ErrorCode};

use crate::config::{Config, OnAuditFailure};
use crate::names::{Answered, Identity, Refusal};

/// File in the state directory with the key that signs the audit log; made at the first start.
const KEY_FILE: &str = "audit.key";

/// How long a change waits for its line to be on disk.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// What somebody did or tried to do. The names are what readers of the log branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Action {
    /// A request was refused.
    Request,
    /// The server has started.
    Start,
    /// The server was told to stop.
    Stop,
    /// A TLS handshake.
    Handshake,
    /// A connection of somebody known.
    Connect,
    /// A limit of the whole server was reached.
    Limit,
    /// A worker has taken its place.
    Register,
    /// A worker has left.
    Leave,
    /// A worker's connection has ended, and it did not come back.
    Lost,
    /// A worker has come by another connection.
    Replaced,
    /// The submissions were read.
    Submissions,
    /// The learning rate was set.
    Schedule,
    /// The status was read.
    Status,
    /// Weights were read, by a connection for the first time.
    Read,
    /// A key was made known, with its first value.
    Init,
    /// A round has failed by its optimizer.
    Round,
    /// A component is to be kept for later activation.
    Submit,
    /// A submission is to be forgotten.
    Withdraw,
    /// A component is to take over.
    Deploy,
    /// A submission is to take over.
    Activate,
    /// What was deployed before is to take over again.
    Rollback,
    /// The trust file has changed.
    TrustReload,
    /// What is deployed is not trusted any more.
    Revoke,
    /// What is deployed runs no further round.
    Pause,
    /// What is deployed is trusted again.
    Resume,
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
            Self::Start => START,
            Self::Stop => STOP,
            Self::Handshake => "handshake",
            Self::Connect => "connect",
            Self::Limit => "limit",
            Self::Register => "register",
            Self::Leave => "leave",
            Self::Lost => "worker-lost",
            Self::Replaced => "worker-replaced",
            Self::Submissions => "submissions",
            Self::Schedule => "schedule",
            Self::Status => "status",
            Self::Read => "read",
            Self::Init => "init",
            Self::Round => "round",
            Self::Submit => "submit",
            Self::Withdraw => "withdraw",
            Self::Deploy => "deploy",
            Self::Activate => "activate",
            Self::Rollback => "rollback",
            Self::TrustReload => "trust-reload",
            Self::Revoke => "revoke",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Certificate => "certificate",
            Self::Reload => "reload",
            Self::Rights => "rights",
        }
    }

    /// What a refused request was an attempt at.
    pub(crate) fn of_request(name: &str) -> Self {
        match name {
            "deploy" => Self::Deploy,
            "submit" => Self::Submit,
            "withdraw" => Self::Withdraw,
            "activate" => Self::Activate,
            "rollback" => Self::Rollback,
            "set schedule" => Self::Schedule,
            "status" => Self::Status,
            "register" => Self::Register,
            "leave" => Self::Leave,
            "submissions" => Self::Submissions,
            "hello" => Self::Connect,
            _ => Self::Request,
        }
    }

    /// Whether a peer can cause many of these where all is well.
    const fn is_frequent(self) -> bool {
        matches!(
            self,
            Self::Handshake
                | Self::Connect
                | Self::Limit
                | Self::Register
                | Self::Leave
                | Self::Lost
                | Self::Replaced
                | Self::Submissions
                | Self::Status
                | Self::Read
                | Self::Init
                | Self::Round
        )
    }
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
    /// What else there is to say, by name.
    pub details: &'a [(&'a str, &'a str)],
}

impl<'a> Event<'a> {
    fn new(action: Action, outcome: Outcome) -> Self {
        Self { action, outcome, identity: None, peer: None, code: None, subject: "", reason: "", details: &[] }
    }

    /// Something that was done.
    pub(crate) fn allowed(action: Action) -> Self {
        Self::new(action, Outcome::Allowed)
    }

    /// Something that was refused.
    pub(crate) fn refused(action: Action, reason: &'a str) -> Self {
        Self { reason, ..Self::new(action, Outcome::Refused) }
    }

    /// Something that is about to be done.
    pub(crate) fn attempted(action: Action) -> Self {
        Self::new(action, Outcome::Attempted)
    }

    /// Something that has happened.
    pub(crate) fn noted(action: Action) -> Self {
        Self::new(action, Outcome::Noted)
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

    pub(crate) fn because(self, reason: &'a str) -> Self {
        Self { reason, ..self }
    }

    pub(crate) fn code(self, code: ErrorCode) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(crate) fn with(self, details: &'a [(&'a str, &'a str)]) -> Self {
        Self { details, ..self }
    }

    fn to_record(&self, job: &str) -> Record {
        let Event { action, outcome, identity, peer, code, subject, reason, details } = self;
        Record {
            identity: identity.map_or("", Identity::as_str).to_owned(),
            peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
            code: code.map_or("", ErrorCode::name).to_owned(),
            subject: (*subject).to_owned(),
            reason: (*reason).to_owned(),
            details: details
                .iter()
                .chain((!job.is_empty()).then_some(&("job", job)))
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            folds: *outcome == Outcome::Refused || action.is_frequent(),
            ..Record::new(action.name(), *outcome)
        }
    }
}

/// Where events go. Clones share the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audit {
    open: Option<Arc<Open>>,
    /// The job that the events are of; empty for those of the whole server.
    job: Arc<str>,
}

#[derive(Debug)]
struct Open {
    log: AuditLog,
    on_failure: OnAuditFailure,
}

impl Audit {
    /// Opens the log, and makes its key where there is none. `server` is how the server is called in it, unless the
    /// configuration says.
    pub(crate) fn open(config: &Config, server: &str) -> Result<Self, AuditError> {
        let settings = &config.audit;
        if !settings.enabled {
            return Ok(Self::default());
        }
        let path = config.state_directory.join(KEY_FILE);
        if !path.exists() {
            SigningKey::generate()?.create_file(&path)?;
            tracing::info!(key = %path.display(), "a key for the audit log was made");
        }
        let log = AuditLog::open(
            stepbox_audit::AuditConfig {
                directory: settings.directory_in(&config.state_directory),
                server: settings.server.clone().unwrap_or_else(|| server.to_owned()),
                file_bytes: settings.file_bytes,
                files: settings.files,
            },
            SigningKey::load(&path)?,
        )?;
        let open = Arc::new(Open { log, on_failure: settings.on_failure });
        Ok(Self { open: Some(open), job: Arc::default() })
    }

    /// The same log, for the events of one job.
    pub(crate) fn of_job(&self, name: &str) -> Self {
        Self { open: self.open.clone(), job: name.into() }
    }

    /// Notes an event here and in the server's own log. Never fails and never waits for long.
    pub(crate) fn record(&self, event: &Event<'_>) {
        let Event { action, outcome, identity, peer, code, subject, reason, details: _ } = event;
        let (action, outcome) = (action.name(), *outcome);
        // What is not known is left out.
        let identity = identity.map(tracing::field::display);
        let peer = peer.map(tracing::field::display);
        let code = code.map(|code| tracing::field::display(code.name()));
        let subject = Some(*subject).filter(|subject| !subject.is_empty());
        match outcome {
            Outcome::Refused => tracing::warn!(action, identity, peer, subject, code, reason, "refused"),
            _ => tracing::info!(action, identity, peer, subject, "{}", outcome.name()),
        }
        self.note(event);
    }

    /// Notes an event of which the server's own log has a line already, or needs none.
    pub(crate) fn note(&self, event: &Event<'_>) {
        if let Some(open) = &self.open {
            open.log.record(event.to_record(&self.job));
        }
    }

    /// Notes what is about to be changed, and returns when that is on disk: a change of which nothing would be known
    /// is refused, unless the operator wants it otherwise.
    pub(crate) async fn confirm(&self, event: &Event<'_>) -> Answered<()> {
        let Some(open) = self.open.clone() else { return Ok(()) };
        let record = event.to_record(&self.job);
        if open.on_failure == OnAuditFailure::Continue {
            open.log.record(record);
            return Ok(());
        }
        let confirmed = tokio::task::spawn_blocking(move || open.log.confirm(record, CONFIRMATION)).await;
        let reason = match confirmed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        let message = format!("{reason}; nothing is changed until it can (audit.on_failure), training goes on");
        Err(Refusal::new(ErrorCode::Busy, message))
    }

    /// Writes the last line. Events after it are lost.
    pub(crate) async fn close(&self) {
        if let Some(open) = self.open.clone() {
            let closing = move || open.log.close(Event::noted(Action::Stop).to_record(""));
            if tokio::task::spawn_blocking(closing).await.is_err() {
                tracing::error!("closing the audit log has panicked");
            }
        }
    }

    /// For the status.
    pub(crate) fn status(&self) -> Option<AuditStatus> {
        let status = self.open.as_ref()?.log.status();
        Some(AuditStatus {
            line: status.newest.sequence,
            head: status.newest.hash.to_string(),
            lost: status.lost,
            failing: status.failing,
            damaged: status.damaged,
        })
    }
}
