//! The trust file of a running server: read again when it changes, and held against what runs.
//!
//! An optimizer that is not trusted any more is paused, unless the operator has it finish: no further round runs in it.
//! A round that is being computed ends; the gradients of one that was not complete are discarded, as after a failure, so
//! that nothing of it is left for whatever is deployed next. Weights stay readable as they are. The next deployment that
//! is trusted takes all keys over at once; where one that is trusted is to come already, it takes over at once those keys
//! that are with one that is paused, and the gradients that they have are its.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use stepbox_wire::{DeploymentStatus, ErrorCode, OptimizerStatus, RevokedOptimizer, Standing};
use tokio::sync::watch;

use crate::audit::{Action, Event};
use crate::component::FileChange;
use crate::config::OnRevocation;
use crate::job::Job;
use crate::names::OptimizerId;
use crate::optimizer::{Optimizer, Revocation};
use crate::round::migration;

/// Looks at the trust file and holds what is deployed against it, also where it has not changed: the validity of a key
/// ends by itself. Waits for the disk. To be called within the runtime.
pub(crate) fn refresh(job: &Arc<Job>) {
    let path = job.config.trust.store.display().to_string();
    match job.components.trust.read_again() {
        FileChange::Unchanged => {}
        FileChange::Replaced => job.audit.record(&Event::allowed(Action::TrustReload).about(&path)),
        FileChange::Unusable(fault) => {
            tracing::error!(fault, "the trust file read before stays in force, and nothing is deployed");
            job.audit.record(&Event::refused(Action::TrustReload, &fault).about(&path));
        }
    }
    enforce(job);
}

/// Holds the optimizers in use and to come against the trust file that is in force.
fn enforce(job: &Arc<Job>) {
    let pauses = job.config.trust.on_revocation == OnRevocation::Pause;
    let mut changes = Vec::new();
    let goes_on = {
        // While this is held no gradient is counted.
        let deployments = job.deployments.write();
        // Only now: somebody else may have read a newer file while this one waited.
        let (store, now) = (job.components.trust.store(), SystemTime::now());
        for optimizer in deployments.known() {
            let revocation = store.recheck(&optimizer.verified, now).err().map(|error| Revocation {
                reason: error.name(),
                message: error.to_string(),
                pauses,
            });
            let before = std::mem::replace(&mut *optimizer.revocation.write(), revocation.clone());
            if before != revocation {
                changes.push((optimizer, revocation));
            }
        }
        if pauses && changes.iter().any(|(_, revocation)| revocation.is_some()) {
            for key in job.model.all() {
                let optimizer = deployments.of_round(key.placed_with(), key.next_round().0);
                if let Some(paused) = optimizer.and_then(|optimizer| optimizer.paused()) {
                    key.interrupt(&paused.message);
                }
            }
            let known = deployments.known();
            let paused = known.into_iter().filter(|optimizer| optimizer.paused().is_some());
            job.rendezvous.abandon_those_of(&paused.map(|optimizer| optimizer.id).collect());
        }
        deployments.newest().is_some_and(|newest| newest.optimizer.paused().is_none())
    };
    if goes_on && !changes.is_empty() {
        // Keys that are with one that is paused do not wait there for the round that the newest was to begin with.
        let job = Arc::clone(job);
        tokio::spawn(async move { migration::all_due(&job).await });
    }
    for (optimizer, revocation) in changes {
        note(job, &optimizer, revocation.as_ref());
    }
}

fn note(job: &Job, optimizer: &Optimizer, revocation: Option<&Revocation>) {
    let OptimizerStatus { name, version, publisher, digest } = &optimizer.status;
    let details = [("name", name.as_str()), ("version", version), ("publisher", publisher)];
    let Some(Revocation { reason, message, pauses }) = revocation else {
        return job.audit.record(&Event::allowed(Action::Resume).about(digest).with(&details));
    };
    tracing::error!(name, version, digest, reason, pauses, "a deployed optimizer is not trusted any more");
    let revoked = Event::refused(Action::Revoke, message).about(digest).code(ErrorCode::Untrusted);
    job.audit.record(&revoked.with(&details));
    if *pauses {
        let paused = Event::refused(Action::Pause, message).about(digest).code(ErrorCode::Paused);
        job.audit.record(&paused.with(&details));
    }
}

/// Refreshes every now and then, and at every signal, until the server stops.
pub(crate) async fn watch(job: Weak<Job>, mut signals: watch::Receiver<u64>, mut shutdown: watch::Receiver<bool>) {
    let Some(period) = job.upgrade().map(|job| job.config.trust.reload_seconds.duration()) else { return };
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            Ok(()) = signals.changed() => {}
            _ = shutdown.wait_for(|stops| *stops) => return,
        }
        let Some(job) = job.upgrade() else { return };
        if let Err(panic) = tokio::task::spawn_blocking(move || refresh(&job)).await {
            tracing::error!(%panic, "the trust file could not be looked at");
        }
    }
}

/// For the status.
pub(crate) fn status(job: &Job) -> DeploymentStatus {
    let deployed = deployed(job);
    let mut revoked = Vec::new();
    let mut standing = if deployed.is_empty() { Standing::None } else { Standing::Trusted };
    for optimizer in deployed.into_values() {
        let Some(Revocation { reason, message, pauses }) = optimizer.revocation.read().clone() else { continue };
        if pauses {
            standing = Standing::Paused;
        } else if standing == Standing::Trusted {
            standing = Standing::Revoked;
        }
        revoked.push(RevokedOptimizer { optimizer: optimizer.status.clone(), reason: reason.to_owned(), message });
    }
    DeploymentStatus {
        standing,
        revoked,
        previous: job.components.previous.read().clone(),
        trust_error: job.components.trust.fault(),
    }
}

/// All that keys update with or will, in order of deployment.
fn deployed(job: &Job) -> BTreeMap<OptimizerId, Arc<Optimizer>> {
    let newest = job.deployments.read().newest().map(|newest| Arc::clone(&newest.optimizer));
    let placed = job.model.all().into_iter().filter_map(|key| key.placed_with());
    placed.chain(newest).map(|optimizer| (optimizer.id, optimizer)).collect()
}
