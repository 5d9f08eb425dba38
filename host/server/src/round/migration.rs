//! A key moves from one optimizer's instances to another's, or into its first.

use std::sync::Arc;

use stepbox_sandbox::Granularity;

use super::{published, recovery};
use crate::job::Job;
use crate::model::{Key, Placement};

/// Moves all keys whose time has come, one after the other: a key in the middle of a round moves at its end.
pub(crate) async fn all_due(job: &Arc<Job>) {
    for key in job.model.all() {
        let mut placement = key.turn.lock().await;
        if let Err(reason) = if_due(job, &key, &mut placement).await {
            tracing::error!(key = key.name, reason, "the key could not move to the new optimizer");
        }
    }
}

/// Moves the key to the newest optimizer where its time has come: the key's next round is the one the deployment named,
/// or that round's failure shows that the optimizer before cannot bring the key there, or that one is paused.
///
/// The key's turn, whose content is `placement`, must be held. On an error the key stays where it is.
pub(crate) async fn if_due(job: &Arc<Job>, key: &Arc<Key>, placement: &mut Option<Placement>) -> Result<(), String> {
    let Some(newest) = job.deployments.read().newest().cloned() else { return Ok(()) };
    let optimizer = newest.optimizer;
    let (next_round, failed) = key.next_round();
    let here = placement.as_ref().map(|placed| placed.optimizer.id);
    let is_paused_here = placement.as_ref().is_some_and(|placed| placed.optimizer.paused().is_some());
    let stuck = failed || here.is_none() || is_paused_here;
    if here == Some(optimizer.id) || (next_round < newest.from_round && !stuck) {
        return Ok(());
    }
    if let Some(paused) = optimizer.paused() {
        // Rounds before the take-over go on where the key is.
        return if next_round < newest.from_round { Ok(()) } else { Err(paused.message) };
    }
    let planned = optimizer
        .plan(key.id)
        .ok_or_else(|| format!("{} has no plan for key `{}`", optimizer.status.name, key.name))?;

    let is_intact = match placement.as_ref() {
        Some(old) => recovery::before_moving(job, key, old).await?,
        None => true,
    };
    let kept = placement.as_ref().filter(|_| is_intact).filter(|old| {
        match optimizer.keeps_state(key.id, &old.optimizer, &old.planned) {
            Ok(()) => true,
            Err(reason) => {
                tracing::info!(key = key.name, reason, "the key's optimizer state starts afresh");
                false
            }
        }
    });
    let state_since = kept.map_or(next_round - 1, |old| old.state_since);
    // Where the tensor stays cut as it was, each shard moves what it has.
    let in_place =
        placement.as_ref().filter(|old| is_intact && old.planned.slices == planned.slices).map(|old| old.optimizer.id);
    let weights = match in_place {
        // Only an optimizer of touched rows leaves them in the sandbox alone; from now on every round publishes them. What
        // is published is what the new optimizer gets, whatever the old one has left in its own memory since.
        Some(_) if planned.plan.granularity != Granularity::TouchedRows => {
            Some(published::in_turn(job, key, placement.as_ref()).await?)
        }
        Some(_) => None,
        None => Some(published::in_turn(job, key, placement.as_ref()).await?),
    };
    for shard in planned.shards() {
        let (to, id) = (optimizer.id, key.id);
        let weights = weights.clone();
        let keep_slots = kept.is_some();
        let moved = job.shards.attempt(shard, move |shard| match (in_place, weights) {
            (Some(from), weights) => shard.take_over(to, from, id, keep_slots, weights.as_deref()),
            (None, Some(weights)) => shard.load(to, id, &weights),
            (None, None) => Ok(()),
        });
        moved.await?;
    }

    let schedule_since = placement.as_ref().map_or(0, |old| old.schedule_since);
    let last = kept.and_then(|old| old.last);
    let optimizer_here = Arc::clone(&optimizer);
    key.place(placement, Placement { optimizer: optimizer_here, planned, state_since, schedule_since, last });
    for shard in 0..job.shards.count() {
        let (here, id) = (optimizer.id, key.id);
        // Only makes room; a shard that is gone has none to give.
        let _ = job.shards.submit(shard, move |shard| shard.release_older(here, id)).await;
    }
    tracing::debug!(key = key.name, optimizer = optimizer.status.name, next_round, "the key has moved");
    if job.deployments.write().moved(optimizer.id) {
        job.rendezvous.forget_older(optimizer.id);
    }
    Ok(())
}
