//! How the server is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};
use stepbox_wire::{ServerStatus, WorkerStatus};

use crate::deployment::off_the_runtime;
use crate::job::Job;
use crate::refusal::Answered;

/// Collects the status. Hashing all weights, where asked for, runs off the runtime.
pub(crate) async fn status(job: &Arc<Job>, with_digest: bool) -> Answered<ServerStatus> {
    let weights_digest = if with_digest {
        let job = Arc::clone(job);
        Some(off_the_runtime(move || Ok(weights_digest(&job))).await?)
    } else {
        None
    };
    let (optimizer, pending_optimizer) = {
        let deployments = job.deployments.read();
        let pending = deployments.pending().map(|pending| (pending.optimizer.status.clone(), pending.from_round));
        (deployments.in_use().map(|optimizer| optimizer.status.clone()), pending)
    };
    let workers = (0..)
        .zip(job.members.borrow().workers())
        .map(|(rank, (identity, connected))| WorkerStatus { identity: identity.to_string(), rank, connected })
        .collect();
    let updates = job.statistics.updates.load(Ordering::Relaxed);
    let nanoseconds = job.statistics.update_nanoseconds.load(Ordering::Relaxed);
    Ok(ServerStatus {
        software: env!("CARGO_PKG_VERSION").into(),
        uptime_seconds: job.started.elapsed().as_secs(),
        optimizer,
        pending_optimizer,
        workers,
        keys: job.model.all().iter().map(|key| key.status()).collect(),
        shard_threads: u32::try_from(job.shards.count()).unwrap_or(u32::MAX),
        updates,
        mean_update_microseconds: if updates == 0 { 0.0 } else { nanoseconds as f64 / updates as f64 / 1000.0 },
        refusals: job.statistics.refusals.load(Ordering::Relaxed),
        weights_digest,
    })
}

/// SHA-256 over the keys in order of name, each as its name, a zero byte and its weights.
fn weights_digest(job: &Job) -> String {
    // All taken before the first is hashed, so that they belong together unless rounds are running.
    let weights: Vec<_> = job.model.all().into_iter().map(|key| (key.weights(), key)).collect();
    let mut hash = Sha256::new();
    for (weights, key) in weights {
        hash.update(key.name.as_bytes());
        hash.update([0]);
        weights.chunks().for_each(|chunk| hash.update(chunk));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
