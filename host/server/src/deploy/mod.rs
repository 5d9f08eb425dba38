//! A new optimizer, from a file that somebody sends to the round in which all keys update with it.
//!
//! In this order, so that whatever fails leaves the optimizer before untouched:
//!
//! 1. signature, publisher and version are verified; nothing of the component has been parsed before ([`checks`]);
//! 2. the sandbox admits it, its name is the manifest's, its hyperparameters are within range in every group, and so is
//!    its learning rate in every round of the schedule;
//! 3. it plans for every key and makes room for every slice, on a thread of its own and within one budget; a rollback,
//!    the end of its trust or of the requester's rights, and the server's end cancel it meanwhile ([`preparation`]);
//! 4. the rights of whoever asks for it, and the trust in it, are found to be there still ([`mandate`]);
//! 5. its file is kept to go back to ([`archive`](crate::component)), and the ledger of versions records what is intended;
//! 6. rights and trust are looked at once more and the round is chosen: one more than the highest any gradient has been counted for. Every key updates with the new
//!    optimizer from that round on, so no round mixes two optimizers, except where a key's round has failed: that key
//!    moves at once and runs the round again with the new one. Keys that stand right before the chosen round move at
//!    once too, the others when they get there ([`migration`]).

mod checks;
mod key_creation;
pub(crate) mod learning_rate;
mod mandate;
mod preparation;
mod records;
mod request;
mod revocation;
mod submissions;

use std::collections::HashMap;
use std::sync::Arc;

use stepbox_wire::{ErrorCode, Response};

pub(crate) use key_creation::create;
pub(crate) use request::Wanted;
pub(crate) use revocation::{status, watch};
pub(crate) use submissions::{submit, submitted_after, withdraw};

use crate::audit::Event;
use crate::job::{Job, Turn, off_the_runtime};
use crate::model::Key;
use crate::names::{Answered, Identity, Refusal, TensorId};
use crate::optimizer::{Deployed, Groups, Optimizer, Planned};
use crate::round::migration;
use crate::shard::ShardLost;
use checks::Accepted;
use learning_rate::Start;
use mandate::Mandate;
use records::{Recorded, record, remember, withdraw_intent};
use request::decided;

/// Deploys a component. Runs to its end once it has begun, whether or not anyone waits for the answer.
pub(crate) async fn deploy(job: Arc<Job>, by: Identity, wanted: Wanted, turn: Turn) -> Answered<Response> {
    let action = wanted.action();
    let mandate = Mandate { by: by.clone(), rights: wanted.rights() };
    let (about, wanted) = off_the_runtime(move || Ok((wanted.about(), wanted))).await?;
    job.audit.confirm(&Event::attempted(action).by(&by).about(&about.digest)).await?;
    // Without all shards nothing can take effect, so nothing is compiled either.
    if let Err(lost) = job.shards.check() {
        return decided(&job, action, &by, &about, Err(lost.into()));
    }
    let checking = Arc::clone(&job);
    let (about, checked) = off_the_runtime(move || Ok(checks::check(&checking, wanted, about))).await?;
    let outcome = match checked {
        Ok(accepted) => take_over(&job, &mandate, &turn, accepted).await,
        Err(refusal) => Err(refusal),
    };
    decided(&job, action, &by, &about, outcome)
}

/// Everything that concerns keys.
async fn take_over(job: &Arc<Job>, mandate: &Mandate, turn: &Turn, accepted: Accepted) -> Answered<Response> {
    let status = checks::status(&accepted.verified);
    let start = || learning_rate::start(job, &status.name, &accepted.component, &accepted.groups, &accepted.options);
    // Whose learning rate is out of range need not be prepared.
    start()?;
    let Accepted { verified, component, groups, .. } = &accepted;
    let request = preparation::Request { verified, component, groups, mandate, progress: turn.progress() };
    let (mut structure, prepared) = preparation::prepare(job, &request).await?;
    let (plans, executors) = prepared.into_parts();
    let keys = job.model.all();
    let ready = start().and_then(|start| {
        check_rounds(&keys, &plans)?;
        turn.progress().take_effect()?;
        Ok(start)
    });
    let start = match ready {
        Ok(start) => start,
        Err(refusal) => {
            // Gigabytes may have to be unmapped.
            tokio::task::spawn_blocking(move || drop(executors));
            return Err(refusal);
        }
    };
    let Accepted { verified, component, groups, options, former } = accepted;
    let by_group = count_by_group(&groups, &plans);
    structure.next_optimizer += 1;
    let optimizer = Arc::new(Optimizer::new(
        structure.next_optimizer,
        status.clone(),
        verified,
        component,
        groups,
        start.rates().clone(),
        plans,
    ));
    if let Err(refusal) = preparation::hand_over(job, optimizer.id, executors).await {
        discard(job, &optimizer);
        return Err(refusal);
    }
    let (recording, recorded, is_new) = (Arc::clone(job), Arc::clone(&optimizer), former.is_none());
    let asking = mandate.clone();
    let recording = off_the_runtime(move || {
        asking.check_anew(&recording, &recorded.verified)?;
        record(&recording, &recorded.verified, is_new)
    });
    // Named by nothing yet, the file stays until it is.
    let (effect, recorded) = match recording.await {
        Ok(recorded) => (take_effect(job, mandate, &optimizer, &start, &keys), Some(recorded)),
        Err(refusal) => (Err(refusal), None),
    };
    let (from_round, state_kept) = match effect {
        Ok(effect) => effect,
        Err(refusal) => {
            discard(job, &optimizer);
            if let Some(Recorded { intent, .. }) = recorded {
                withdraw_intent(job, intent).await;
            }
            return Err(refusal);
        }
    };
    drop(structure);
    remember(job, recorded, status.clone(), options, former).await;
    tracing::info!(
        optimizer = status.name,
        version = status.version,
        publisher = status.publisher,
        digest = status.digest,
        from_round,
        state_kept,
        "deployed"
    );
    // A key that is not moved here, since a shard is stuck, moves before its next round.
    let moving = async {
        migration::all_due(job).await;
        Ok::<_, ShardLost>(())
    };
    let moved = job.shards.unless_stuck(moving);
    if let Err(error) = moved.await {
        tracing::error!(%error, "not all keys have moved to the new optimizer yet");
    }
    let schedule = optimizer.rates.lock().newest_status();
    Ok(Response::Deployed { optimizer: status, from_round, state_kept, schedule, groups: by_group })
}

/// Keys that an optimizer combines go through their rounds together, which they can only where they stand together.
fn check_rounds(keys: &[Arc<Key>], plans: &HashMap<TensorId, Arc<Planned>>) -> Answered<()> {
    let combined = keys.iter().filter(|key| plans.get(&key.id).is_some_and(|planned| planned.plan.shares()));
    let versions: Vec<(u64, &str)> = combined.map(|key| (key.version(), key.name.as_str())).collect();
    match (versions.iter().min(), versions.iter().max()) {
        // A round apart they are while workers push.
        (Some((least, behind)), Some((most, ahead))) if most - least > 1 => {
            let message = format!(
                "the optimizer combines keys that are at different rounds: `{ahead}` at {most}, `{behind}` at {least}"
            );
            Err(Refusal::new(ErrorCode::Busy, message))
        }
        _ => Ok(()),
    }
}

/// How many of the keys each group has taken.
fn count_by_group(groups: &Groups, plans: &HashMap<TensorId, Arc<Planned>>) -> Vec<(String, u64)> {
    let count = |name: &str| plans.values().filter(|planned| planned.tensor.group == name).count() as u64;
    groups.names().map(|name| (name.to_owned(), count(name))).collect()
}

/// Has all shards let go of an optimizer. Nobody waits for it: a shard that is busy does it when it comes to it, and one
/// that is gone has nothing left to let go of.
fn discard(job: &Arc<Job>, optimizer: &Optimizer) {
    let (job, id) = (Arc::clone(job), optimizer.id);
    tokio::spawn(async move {
        for shard in 0..job.shards.count() {
            let _ = job.shards.submit(shard, move |shard| shard.discard(id)).await;
        }
    });
}

/// Chooses the round, if nothing speaks against the deployment by now. Returns the round, and whether all keys keep their
/// state.
fn take_effect(
    job: &Job,
    mandate: &Mandate,
    optimizer: &Arc<Optimizer>,
    start: &Start,
    keys: &[Arc<Key>],
) -> Answered<(u64, bool)> {
    // While this is held no gradient is counted, and no revocation passes by what is deployed.
    let mut deployments = job.deployments.write();
    mandate.check(job, &optimizer.verified)?;
    let highest = keys.iter().map(|key| key.highest_pushed()).max().unwrap_or(0);
    let from_round = highest + 1;
    let before: Vec<_> =
        deployments.in_use().into_iter().chain(deployments.pending().map(|pending| &pending.optimizer)).collect();
    let keeps = |older: &Arc<Optimizer>, key: &Arc<Key>| {
        older.plan(key.id).is_some_and(|planned| optimizer.keeps_state(key.id, older, &planned).is_ok())
    };
    let state_kept =
        !before.is_empty() && !keys.is_empty() && before.iter().all(|older| keys.iter().all(|key| keeps(older, key)));
    if let Start::Afresh(_) = start {
        optimizer.rates.lock().begin(from_round);
    }
    job.offenders.forget();
    deployments.deploy(Deployed { optimizer: Arc::clone(optimizer), from_round }, keys.len());
    Ok((from_round, state_kept))
}
