//! A deployment's records on disk: its file in the archive, and its version in the ledger.

use std::collections::HashSet;
use std::sync::Arc;

use stepbox_trust::{Intent, VerifiedComponent};
use stepbox_wire::{DeployOptions, ErrorCode, OptimizerStatus};

use crate::component::{Archive, FileLease, Kept};
use crate::job::Job;
use crate::names::{Answered, Refusal};

/// What is on disk before a deployment takes effect.
pub(super) struct Recorded {
    /// In the ledger.
    pub intent: Intent,
    /// The component's file.
    pub lease: FileLease,
}

/// Puts the component where a rollback finds it, until it is remembered, and its version where no older one gets past it.
pub(super) fn record(job: &Job, verified: &VerifiedComponent, is_new: bool) -> Answered<Recorded> {
    let lease = keep(job, &job.components.archive.lock(), verified)?;
    let mut ledger = job.components.ledger.lock();
    let intent = if is_new { ledger.record(verified) } else { ledger.record_rollback(verified) };
    let intent = intent.map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()).because("ledger"))?;
    Ok(Recorded { intent, lease })
}

/// Has the ledger forget what has not taken effect. What fails here costs only other content under the same version.
pub(super) async fn withdraw_intent(job: &Arc<Job>, intent: Intent) {
    let ledger = Arc::clone(job);
    let withdrawn = tokio::task::spawn_blocking(move || ledger.components.ledger.lock().withdraw(intent));
    if let Ok(Err(error)) = withdrawn.await {
        tracing::error!(%error, "the version ledger on disk still has a deployment that was refused");
    }
}

/// Keeps a component's file. One of the same content that is there is replaced only where it is not good any more, or where
/// this one has more signatures: it is not to lose those of others.
pub(super) fn keep(job: &Job, archive: &Archive, verified: &VerifiedComponent) -> Answered<FileLease> {
    let digest = verified.digest().to_string();
    let known = archive.read(&digest, job.config.limits.component_bytes).ok();
    let known = known.and_then(|bytes| job.components.trust.store_for_deployment().ok()?.verify_stored(bytes).ok());
    if let Some(known) = known.filter(|known| known.digest() == verified.digest()) {
        let (before, now) = (signers(&known), signers(verified));
        if !(now.len() > before.len() && now.is_superset(&before)) {
            return Ok(archive.lease(&digest));
        }
    }
    archive.keep(&digest, verified.bytes()).map_err(|error| cannot_keep(&error))
}

/// Whose signatures count.
fn signers(verified: &VerifiedComponent) -> HashSet<stepbox_trust::KeyId> {
    verified.signers().map(|(key, _)| key).collect()
}

/// Records that the deployment has taken effect, and has later rollbacks know of it. What fails here costs nothing of
/// what runs: the files are then those of a server that ended right before this.
pub(super) async fn remember(
    job: &Arc<Job>,
    recorded: Option<Recorded>,
    status: OptimizerStatus,
    options: DeployOptions,
    former: Option<Kept>,
) {
    let remembering = Arc::clone(job);
    let remembered = tokio::task::spawn_blocking(move || {
        if let Some(Recorded { intent, lease }) = recorded {
            if let Err(error) = remembering.components.ledger.lock().took_effect(intent) {
                tracing::error!(%error, "after a restart the server will not know that this has taken effect");
            }
            // The index names the file before this lets go of it.
            let mut archive = remembering.components.archive.lock();
            let outcome = match former {
                Some(kept) => archive.rolled_back(&kept),
                None => archive.deployed(Kept { optimizer: status, options }),
            };
            drop(lease);
            outcome
        } else {
            Ok(())
        }
    });
    if let Ok(Err(error)) = remembered.await {
        tracing::error!(%error, "after a restart the server will not know that this was deployed");
    }
}

pub(super) fn cannot_keep(error: &std::io::Error) -> Refusal {
    let message = format!("the component cannot be kept in the state directory: {error}");
    Refusal::new(ErrorCode::Internal, message).because("archive")
}

pub(super) fn unknown_component(digest: &str) -> Refusal {
    let message = format!("no component of digest {digest} is submitted; `stepbox submissions` lists what is");
    Refusal::new(ErrorCode::UnknownComponent, message).because("not-submitted")
}

pub(super) fn no_previous(digest: Option<&str>) -> Refusal {
    let message = match digest {
        None => "there is no deployment before the present one to roll back to".to_owned(),
        Some(digest) => {
            format!("{digest} is not among the deployments that can be rolled back to; the status has them")
        }
    };
    Refusal::new(ErrorCode::UnknownComponent, message).because("no-previous-deployment")
}
