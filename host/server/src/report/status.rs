//! How the server is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use stepbox_wire::{ErrorCode, KeyStatus, ServerStatus};
use tokio::sync::Semaphore;

use super::weights_digest::WeightsDigest;
use crate::deploy;
use crate::job::{Job, off_the_runtime};
use crate::model::Key;
use crate::names::{Answered, Refusal};
use crate::optimizer::Optimizer;
use crate::round::published;
use crate::tensor::Weights;

/// The status without the lists of workers and keys, which are reports of their own.
pub(crate) fn status(job: &Job, weights_digest: Option<String>) -> ServerStatus {
    let offenders = job.offenders.warnings(&job.workers.members.borrow());
    let stuck = job.shards.check().err().map(|lost| lost.to_string());
    let (in_use, pending) = {
        let deployments = job.deployments.read();
        (deployments.in_use().cloned(), deployments.pending().cloned())
    };
    let open = job.model.after(None, |keys| keys.map(|key| key.version()).max()).unwrap_or(0) + 1;
    let optimizer_of_open = pending.as_ref().filter(|pending| open >= pending.from_round);
    let rates =
        optimizer_of_open.map(|pending| &pending.optimizer).or(in_use.as_ref()).map(|of| of.rates.lock().clone());
    let schedules = rates.as_ref().map(|rates| rates.status(open));
    // One that is to come with an optimizer that is to come.
    let with_pending = pending.as_ref().map(|pending| pending.optimizer.rates.lock().newest_status());
    let (schedule, pending_schedule) = schedules.unzip();
    let updates = job.statistics.updates.load(Ordering::Relaxed);
    let nanoseconds = job.statistics.update_nanoseconds.load(Ordering::Relaxed);
    ServerStatus {
        software: env!("CARGO_PKG_VERSION").into(),
        job: job.config.name.clone(),
        uptime_seconds: job.started.elapsed().as_secs(),
        optimizer: in_use.as_ref().map(|optimizer| optimizer.status.clone()),
        pending_optimizer: pending.map(|pending| (pending.optimizer.status.clone(), pending.from_round)),
        learning_rate: rates.map(|rates| rates.at(open, 0).learning_rate),
        pending_schedule: pending_schedule.flatten().or(with_pending.filter(|pending| pending.from_round > open)),
        schedule,
        workers: Vec::new(),
        keys: Vec::new(),
        shard_threads: u32::try_from(job.shards.count()).unwrap_or(u32::MAX),
        updates,
        mean_update_microseconds: if updates == 0 { 0.0 } else { nanoseconds as f64 / updates as f64 / 1000.0 },
        refusals: job.statistics.refusals.load(Ordering::Relaxed),
        weights_digest,
        deployment: deploy::status(job),
        audit: job.audit.status(),
        log: job.log.get().map(|log| log.status(Instant::now())),
        protections: job.protections.get().cloned().unwrap_or_default(),
        warnings: job.warnings.all().into_iter().chain(stuck).chain(offenders).collect(),
    }
}

/// A key's status under the optimizer in use.
pub(crate) fn key_status(key: &Key, in_use: Option<&Optimizer>) -> KeyStatus {
    key.status(in_use.and_then(|optimizer| optimizer.plan(key.id)))
}

/// See [`WeightsDigest`]. Hashed off the runtime, one at a time.
pub(crate) async fn weights_digest(job: &Arc<Job>) -> Answered<String> {
    let hash = |all: Vec<(Arc<Weights>, Arc<Key>)>| {
        let mut digest = WeightsDigest::of(all.len());
        all.iter().for_each(|(weights, key)| digest.add(&key.name, &key.tensor, weights));
        digest.finish()
    };
    job.shards.unless_stuck(in_turn(&job.digesting, all_weights(job), hash)).await
}

/// All taken before the first is hashed, so that they belong together unless rounds are running.
async fn all_weights(job: &Arc<Job>) -> Answered<Vec<(Arc<Weights>, Arc<Key>)>> {
    let mut all = Vec::new();
    for key in job.model.all() {
        let weights = published::weights(job, &key).await;
        all.push((weights.map_err(|reason| Refusal::new(ErrorCode::Internal, reason))?, key));
    }
    Ok(all)
}

/// Takes what is large once it has its turn, and makes something of it on a thread of its own. The turn ends with that
/// thread's work, whether or not anybody still waits for it.
async fn in_turn<Taken: Send + 'static, Made: Send + 'static>(
    turns: &Arc<Semaphore>,
    take: impl Future<Output = Answered<Taken>>,
    make: impl FnOnce(Taken) -> Made + Send + 'static,
) -> Answered<Made> {
    let turn = Arc::clone(turns).acquire_owned().await;
    let turn = turn.map_err(|closed| Refusal::new(ErrorCode::Internal, closed.to_string()))?;
    let taken = take.await?;
    off_the_runtime(move || {
        let made = make(taken);
        drop(turn);
        Ok(made)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use super::*;

    /// Counts what is taken and not yet let go.
    struct Taken(Arc<AtomicUsize>);

    impl Drop for Taken {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn however_many_ask_one_at_a_time_takes_what_is_large() {
        let (turns, held) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicUsize::new(0)));
        let ask = || {
            let (turns, held) = (Arc::clone(&turns), Arc::clone(&held));
            tokio::spawn(async move {
                let take = async {
                    assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "another one is held");
                    tokio::task::yield_now().await;
                    Ok(Taken(Arc::clone(&held)))
                };
                in_turn(&turns, take, drop).await
            })
        };
        let asked: Vec<_> = (0..16).map(|_| ask()).collect();
        for asked in asked {
            asked.await.expect("no other one is held").expect("made");
        }
    }

    #[tokio::test]
    async fn the_turn_of_one_who_has_gone_ends_with_the_work() {
        let turns = Arc::new(Semaphore::new(1));
        let ((begun, has_begun), (goes_on, go_on)) = (tokio::sync::oneshot::channel(), mpsc::channel::<()>());
        let work = move |()| {
            begun.send(()).expect("the test waits");
            go_on.recv().expect("the test lets it go on");
        };
        let asking = Arc::clone(&turns);
        let asked = tokio::spawn(async move { in_turn(&asking, async { Ok(()) }, work).await });
        has_begun.await.expect("it begins");
        asked.abort();
        assert!(asked.await.expect_err("it was ended").is_cancelled());
        assert_eq!(turns.available_permits(), 0, "the work goes on");
        goes_on.send(()).expect("it waits");
        let _turn = turns.acquire().await.expect("the turn is free again");
    }
}
