//! Refused requests: counted, logged and audited.

use std::sync::atomic::{AtomicU64, Ordering};

use stepbox_wire::Failure;

use crate::audit::{Action, Audit, Event};
use crate::job::{Job, Jobs};
use crate::names::{Identity, Refusal};

/// Counts and logs a refusal; returns the answer to the peer.
pub(super) fn refused(job: &Job, identity: &Identity, request: &str, key: &str, refusal: Refusal) -> Failure {
    let subject = if key.is_empty() { request } else { key };
    note_refusal((&job.statistics.refusals, &job.audit), identity, request, subject, refusal)
}

/// As [`refused`], for what belongs to no job.
pub(super) fn refused_by_server(jobs: &Jobs, identity: &Identity, request: &str, refusal: Refusal) -> Failure {
    note_refusal((&jobs.refusals, &jobs.audit), identity, request, request, refusal)
}

fn note_refusal(
    (count, audit): (&AtomicU64, &Audit),
    identity: &Identity,
    request: &str,
    subject: &str,
    mut refusal: Refusal,
) -> Failure {
    refusal.shorten();
    count.fetch_add(1, Ordering::Relaxed);
    if !refusal.audited {
        let reason = format!("{request}: {}", refusal.message);
        let action = Action::of_request(request);
        audit.record(&Event::refused(action, &reason).by(identity).about(subject).code(refusal.code));
    }
    refusal.into()
}
