//! Requests for another optimizer, and their events in the audit log.

use stepbox_trust::{Claims, Digest};
use stepbox_wire::{DeployOptions, OptimizerStatus, Response};

use crate::audit::{Action, Event};
use crate::config::Right;
use crate::job::Job;
use crate::names::{Answered, Identity, Refusal};

/// What is to be deployed.
pub(crate) enum Wanted {
    /// A component as it came.
    File { component: Vec<u8>, options: DeployOptions },
    /// One that was submitted, by its digest.
    Submitted { digest: String, options: DeployOptions },
    /// One that was deployed before: the last, or the one of this digest.
    Former { to: Option<String> },
}

impl Wanted {
    pub fn action(&self) -> Action {
        match self {
            Self::File { .. } => Action::Deploy,
            Self::Submitted { .. } => Action::Activate,
            Self::Former { .. } => Action::Rollback,
        }
    }

    /// What one must be allowed to do for it.
    pub fn rights(&self) -> &'static [Right] {
        match self {
            Self::File { .. } => &[Right::Activate, Right::Submit],
            Self::Submitted { .. } | Self::Former { .. } => &[Right::Activate],
        }
    }

    pub fn about(&self) -> OptimizerStatus {
        match self {
            Self::File { component, .. } => claimed(component),
            Self::Submitted { digest, .. } => named(digest.clone()),
            Self::Former { to } => named(to.clone().unwrap_or_default()),
        }
    }
}

/// Notes what has become of a request to submit, deploy and so on.
pub(super) fn decided(
    job: &Job,
    action: Action,
    by: &Identity,
    about: &OptimizerStatus,
    outcome: Answered<Response>,
) -> Answered<Response> {
    let from_round = match &outcome {
        Ok(Response::Deployed { from_round, .. }) => from_round.to_string(),
        _ => String::new(),
    };
    let outcome = outcome.map_err(|mut refusal| {
        refusal.shorten();
        Refusal { audited: true, ..refusal }
    });
    let reason = outcome.as_ref().err().and_then(|refusal| refusal.reason).unwrap_or_default();
    let OptimizerStatus { name, version, publisher, digest } = about;
    let details = [
        ("name", name.as_str()),
        ("version", version),
        ("publisher", publisher),
        ("from_round", &from_round),
        ("reason", reason),
    ];
    let details: Vec<_> = details.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let event = match &outcome {
        Ok(_) => Event::allowed(action),
        Err(refusal) => Event::refused(action, &refusal.message).code(refusal.code),
    };
    job.audit.record(&event.by(by).about(digest).with(&details));
    outcome
}

/// What an unverified file says of itself, for those who read of an attempt with it.
pub(super) fn claimed(component: &[u8]) -> OptimizerStatus {
    match Claims::read(component) {
        Ok(claims) => OptimizerStatus {
            name: claims.manifest.name,
            version: claims.manifest.version.to_string(),
            publisher: claims.manifest.publisher.to_string(),
            digest: claims.digest.to_string(),
        },
        Err(_) => named(Digest::of(component).to_string()),
    }
}

/// Of which only the digest is known.
pub(super) fn named(digest: String) -> OptimizerStatus {
    OptimizerStatus { name: String::new(), version: String::new(), publisher: String::new(), digest }
}
