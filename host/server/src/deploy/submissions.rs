//! Components that publishers bring and deployers activate: two rights, so that nobody runs new code alone.
//!
//! A submission goes through everything that a deployment goes through short of the model's keys, so that whoever
//! activates it finds no surprise; and through all of it again when it is activated, since trust may have ended between.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use stepbox_wire::{ErrorCode, Page, Response, SubmissionStatus};

use super::mandate::Mandate;
use super::records::{cannot_keep, unknown_component};
use super::request::{claimed, decided, named};
use super::{checks, records};
use crate::audit::{Action, Event};
use crate::config::{Limits, Right};
use crate::job::{Job, off_the_runtime};
use crate::names::{Answered, Identity, Refusal};

/// Verifies, admits and keeps a component.
pub(crate) async fn submit(job: Arc<Job>, by: Identity, component: Vec<u8>) -> Answered<Response> {
    let (claims, component) = off_the_runtime(move || Ok((claimed(&component), component))).await?;
    job.audit.confirm(&Event::attempted(Action::Submit).by(&by).about(&claims.digest)).await?;
    let (working, submitter) = (Arc::clone(&job), by.clone());
    let outcome = off_the_runtime(move || keep(&working, &submitter, component)).await;
    let about = outcome.as_ref().map_or(claims, |submission| submission.component.clone());
    let outcome = outcome.map(|submission| Response::Submitted(Box::new(submission)));
    decided(&job, Action::Submit, &by, &about, outcome)
}

fn keep(job: &Arc<Job>, by: &Identity, component: Vec<u8>) -> Answered<SubmissionStatus> {
    let verified = checks::verify(job, component)?;
    checks::check_version(job, &verified)?;
    let digest = verified.digest().to_string();
    let is_known = job.components.archive.lock().submission(&digest).is_some();
    if !is_known {
        check_room(job.components.archive.lock().submitted(), by, verified.bytes().len() as u64, &job.config.limits)?;
        checks::admit(job, &verified)?;
    }
    Mandate { by: by.clone(), rights: &[Right::Submit] }.check_anew(job, &verified)?;
    let mut archive = job.components.archive.lock();
    // Also where it is known: it may have come with more signatures.
    let _lease = records::keep(job, &archive, &verified)?;
    // Asked again: it may have been withdrawn meanwhile, or have come from somebody else.
    if let Some(known) = archive.submission(&digest) {
        return Ok(known.clone());
    }
    let submission = SubmissionStatus {
        component: checks::status(&verified),
        bytes: verified.bytes().len() as u64,
        submitted_by: by.to_string(),
        submitted_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    archive.submit(submission.clone()).map_err(|error| cannot_keep(&error))?;
    Ok(submission)
}

/// Whether one more may be kept.
fn check_room(submitted: &[SubmissionStatus], by: &Identity, bytes: u64, limits: &Limits) -> Answered<()> {
    let own = submitted.iter().filter(|submission| submission.submitted_by == by.as_str()).count();
    let all_bytes = submitted.iter().map(|submission| submission.bytes).sum::<u64>().saturating_add(bytes);
    let reached = if own >= limits.submissions_per_identity {
        format!("`{by}` has {own} submissions already (limits.submissions_per_identity)")
    } else if submitted.len() >= limits.submissions {
        format!("{} submissions are kept already (limits.submissions)", submitted.len())
    } else if all_bytes > limits.submission_bytes {
        format!("all submissions together would have {all_bytes} bytes (limits.submission_bytes)")
    } else {
        return Ok(());
    };
    let message = format!("{reached}; withdraw one that is not needed (`stepbox submissions --withdraw`)");
    Err(Refusal::new(ErrorCode::Busy, message).because("submissions-full"))
}

/// A page of what was submitted, after the submission of this digest.
pub(crate) async fn submitted_after(
    job: &Arc<Job>,
    after: Option<String>,
    bytes: usize,
) -> Answered<Page<SubmissionStatus>> {
    let job = Arc::clone(job);
    off_the_runtime(move || {
        let archive = job.components.archive.lock();
        let submitted = archive.submitted();
        let Some(digest) = after else { return Ok(Page::fill(submitted.iter().cloned(), bytes)) };
        let position = submitted.iter().position(|submission| submission.component.digest == digest);
        let Some(position) = position else {
            let message =
                format!("the submission {digest} was withdrawn while submissions were listed; list them anew");
            return Err(Refusal::new(ErrorCode::UnknownComponent, message).because("not-submitted"));
        };
        Ok(Page::fill(submitted[position + 1..].iter().cloned(), bytes))
    })
    .await
}

/// Forgets a submission, for who has made it and for those who may withdraw all.
pub(crate) async fn withdraw(job: Arc<Job>, by: Identity, all: bool, digest: String) -> Answered<Response> {
    let (working, withdrawer, about) = (Arc::clone(&job), by.clone(), digest.to_ascii_lowercase());
    let outcome = off_the_runtime(move || {
        let mut archive = working.components.archive.lock();
        // Those of others are none to whoever may not see to them.
        let is_there = archive.submission(&about).is_some_and(|found| all || found.submitted_by == withdrawer.as_str());
        if !is_there {
            return Err(unknown_component(&about));
        }
        archive.withdraw(&about).map_err(|error| cannot_keep(&error))?;
        Ok(Response::Withdrawn)
    });
    decided(&job, Action::Withdraw, &by, &named(digest), outcome.await)
}
