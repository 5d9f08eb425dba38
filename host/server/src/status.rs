//! How the server is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};
use stepbox_wire::{ErrorCode, ServerStatus, WorkerStatus};

use crate::deployment::off_the_runtime;
use crate::job::Job;
use crate::published;
use crate::refusal::{Answered, Refusal};

/// Collects the status. Hashing all weights, where asked for, runs off the runtime.
pub(crate) async fn status(job: &Arc<Job>, with_digest: bool) -> Answered<ServerStatus> {
    let weights_digest = if with_digest { Some(weights_digest(job).await?) } else { None };
    let keys = job.model.all();
    let (in_use, pending) = {
        let deployments = job.deployments.read();
        (deployments.in_use().cloned(), deployments.pending().cloned())
    };
    let open = keys.iter().map(|key| key.version()).max().unwrap_or(0) + 1;
    let optimizer_of_open = pending.as_ref().filter(|pending| open >= pending.from_round);
    let rates =
        optimizer_of_open.map(|pending| &pending.optimizer).or(in_use.as_ref()).map(|of| of.rates.lock().clone());
    let schedules = rates.as_ref().map(|rates| rates.status(open));
    // One that is to come with an optimizer that is to come.
    let with_pending = pending.as_ref().map(|pending| pending.optimizer.rates.lock().newest_status());
    let (schedule, pending_schedule) = schedules.unzip();
    let workers = (0..)
        .zip(job.members.borrow().workers())
        .map(|(rank, (identity, connected))| WorkerStatus { identity: identity.to_string(), rank, connected })
        .collect();
    let updates = job.statistics.updates.load(Ordering::Relaxed);
    let nanoseconds = job.statistics.update_nanoseconds.load(Ordering::Relaxed);
    Ok(ServerStatus {
        software: env!("CARGO_PKG_VERSION").into(),
        job: job.config.name.clone(),
        uptime_seconds: job.started.elapsed().as_secs(),
        optimizer: in_use.as_ref().map(|optimizer| optimizer.status.clone()),
        pending_optimizer: pending.map(|pending| (pending.optimizer.status.clone(), pending.from_round)),
        learning_rate: rates.map(|rates| rates.at(open, 0).learning_rate),
        pending_schedule: pending_schedule.flatten().or(with_pending.filter(|pending| pending.from_round > open)),
        schedule,
        workers,
        keys: keys.iter().map(|key| key.status(in_use.as_ref().and_then(|optimizer| optimizer.plan(key.id)))).collect(),
        shard_threads: u32::try_from(job.shards.count()).unwrap_or(u32::MAX),
        updates,
        mean_update_microseconds: if updates == 0 { 0.0 } else { nanoseconds as f64 / updates as f64 / 1000.0 },
        refusals: job.statistics.refusals.load(Ordering::Relaxed),
        weights_digest,
        audit: job.audit.status(),
        protections: job.protections.get().cloned().unwrap_or_default(),
    })
}

/// SHA-256 over the keys in order of name, each as its name, a zero byte and its weights.
async fn weights_digest(job: &Arc<Job>) -> Answered<String> {
    // All taken before the first is hashed, so that they belong together unless rounds are running.
    let mut all = Vec::new();
    for key in job.model.all() {
        let weights = published::weights(job, &key).await;
        all.push((weights.map_err(|reason| Refusal::new(ErrorCode::Internal, reason))?, key));
    }
    off_the_runtime(move || {
        let mut hash = Sha256::new();
        for (weights, key) in all {
            hash.update(key.name.as_bytes());
            hash.update([0]);
            weights.chunks().for_each(|chunk| hash.update(chunk));
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    })
    .await
}
