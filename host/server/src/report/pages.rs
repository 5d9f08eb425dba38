//! What the server tells of itself: the status, and lists page by page.
//!
//! A report is made when its answer's turn to be sent has come, not when it is asked for: a peer that asks and does not
//! read holds the requests, a few bytes each, and not the answers.

use std::sync::Arc;

use stepbox_wire::{ErrorCode, PAGE_BYTES, Page, Response, WorkerStatus};

use super::status::{key_status, status};
use crate::config::{Limits, Right};
use crate::deploy::submitted_after;
use crate::job::Job;
use crate::names::{Answered, Identity, Rank, Refusal};

/// Most bytes of a report, which are held while it is sent: a page with its header.
pub(crate) const REPORT_BYTES: u64 = 2 * PAGE_BYTES as u64;

/// Bytes of a page's header besides its entries, rounded up: the request's id, the message's number, the number of
/// entries.
const BESIDE_ENTRIES: usize = 32;

/// Something that is asked for.
pub(crate) enum Report {
    /// How the server is.
    Status { weights_digest: Option<String> },
    /// The keys after this one.
    Keys { after: Option<String> },
    /// The workers after this rank.
    Workers { after: Option<Rank> },
    /// The submissions after the one of this digest.
    Submissions { after: Option<String> },
}

impl Report {
    /// As the request is called in the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } | Self::Keys { .. } | Self::Workers { .. } => "status",
            Self::Submissions { .. } => "submissions",
        }
    }

    /// Whether it is not the continuation of a list.
    pub(crate) fn is_first(&self) -> bool {
        match self {
            Self::Status { .. } => true,
            Self::Keys { after } | Self::Submissions { after } => after.is_none(),
            Self::Workers { after } => after.is_none(),
        }
    }

    /// Whether an identity has the right to it.
    pub(crate) fn check_right(&self, job: &Job, identity: &Identity) -> Answered<()> {
        if !matches!(self, Self::Submissions { .. }) {
            return job.access.require(identity, Right::Status);
        }
        let rights = job.access.still_of(identity)?;
        if [Right::Submit, Right::Activate, Right::Status].into_iter().any(|right| rights.may(right)) {
            return Ok(());
        }
        let message = format!("`{identity}` may not see what is submitted; the operator names who may in [access]");
        Err(Refusal::new(ErrorCode::Forbidden, message))
    }

    /// Makes it.
    pub(crate) async fn make(self, job: &Arc<Job>) -> Answered<Response> {
        let bytes = entry_bytes(&job.config.limits);
        Ok(match self {
            Self::Status { weights_digest } => Response::Status(Box::new(status(job, weights_digest))),
            Self::Keys { after } => Response::Keys(keys(job, after.as_deref(), bytes)),
            Self::Workers { after } => Response::Workers(workers(job, after, bytes)),
            Self::Submissions { after } => Response::Submissions(submitted_after(job, after, bytes).await?),
        })
    }
}

/// Bytes that a page's entries may have: fewer than usual where the configuration wants short headers.
fn entry_bytes(limits: &Limits) -> usize {
    PAGE_BYTES.min((limits.header_bytes as usize).saturating_sub(BESIDE_ENTRIES))
}

fn keys(job: &Job, after: Option<&str>, bytes: usize) -> Page<stepbox_wire::KeyStatus> {
    let in_use = job.deployments.read().in_use().cloned();
    job.model.after(after, |keys| Page::fill(keys.map(|key| key_status(key, in_use.as_deref())), bytes))
}

fn workers(job: &Job, after: Option<Rank>, bytes: usize) -> Page<WorkerStatus> {
    let members = job.workers.members.borrow();
    let all = (0..).zip(members.workers());
    let status = |(rank, (identity, connected)): (Rank, (&Identity, bool))| WorkerStatus {
        identity: identity.to_string(),
        rank,
        connected,
    };
    Page::fill(all.skip_while(|(rank, _)| after.is_some_and(|after| *rank <= after)).map(status), bytes)
}
