//! A new optimizer, from a file that somebody sends to the round in which all keys update with it.
//!
//! In this order, so that whatever fails leaves the optimizer before untouched:
//!
//! 1. signature, publisher and version are verified; nothing of the component has been parsed before;
//! 2. the sandbox admits it, its name is the manifest's, its hyperparameters are within range in every group, and so is
//!    its learning rate in every round of the schedule;
//! 3. it plans for every key, and every shard makes room for every slice;
//! 4. the ledger of versions records it;
//! 5. the round is chosen: one more than the highest any gradient has been counted for. Every key updates with the new
//!    optimizer from that round on, so no round mixes two optimizers, except where a key's round has failed: that key
//!    moves at once and runs the round again with the new one. Keys that stand right before the chosen round move at
//!    once too, the others when they get there ([`move_over`]).

use std::collections::HashMap;
use std::sync::Arc;

use stepbox_sandbox::{AdmittedComponent, Fault, SandboxError};
use stepbox_trust::{TrustStore, VerifiedComponent};
use stepbox_wire::{DeployOptions, ErrorCode, OptimizerStatus, Response};

use crate::groups::Groups;
use crate::job::Job;
use crate::key::Key;
use crate::learning_rate::{self, Start};
use crate::move_over;
use crate::optimizer::{Deployed, Optimizer, Planned};
use crate::refusal::{Answered, Refusal};
use crate::shard::{KeyId, NewSlice};

/// What is to be deployed, as it came.
pub(crate) struct Submission {
    pub component: Vec<u8>,
    pub options: DeployOptions,
}

/// Past all checks that need no key.
struct Accepted {
    verified: VerifiedComponent,
    component: AdmittedComponent,
    groups: Groups,
    options: DeployOptions,
}

/// Deploys a component. Runs to its end once it has begun, whether or not anyone waits for the answer.
pub(crate) async fn deploy(job: Arc<Job>, submission: Submission) -> Answered<Response> {
    let checking = Arc::clone(&job);
    let accepted = off_the_runtime(move || check(&checking, submission)).await?;
    let status = OptimizerStatus {
        name: accepted.verified.manifest().name.clone(),
        version: accepted.verified.manifest().version.to_string(),
        publisher: accepted.verified.publisher().to_string(),
        digest: accepted.verified.digest().to_string(),
    };

    let mut structure = job.structure.lock().await;
    let start = learning_rate::start(&job, &status.name, &accepted.component, &accepted.groups, &accepted.options)?;
    let keys = job.model.all();
    let plans = plan_all(&accepted, keys.clone(), job.shards.count()).await?;
    check_rounds(&keys, &plans)?;
    let by_group = count_by_group(&accepted.groups, &plans);
    structure.next_optimizer += 1;
    let optimizer = Arc::new(Optimizer::new(
        structure.next_optimizer,
        status.clone(),
        accepted.component,
        accepted.groups,
        start.rates().clone(),
        plans,
    ));
    if let Err(refusal) = prepare(&job, &optimizer, &keys).await {
        discard(&job, &optimizer).await;
        return Err(refusal);
    }
    let recording = Arc::clone(&job);
    let recorded = off_the_runtime(move || {
        let mut ledger = recording.ledger.lock();
        ledger.record(&accepted.verified).map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))
    });
    if let Err(refusal) = recorded.await {
        discard(&job, &optimizer).await;
        return Err(refusal);
    }

    let (from_round, state_kept) = take_effect(&job, &optimizer, &start, &keys);
    drop(structure);
    tracing::info!(
        optimizer = status.name,
        version = status.version,
        publisher = status.publisher,
        digest = status.digest,
        from_round,
        state_kept,
        "deployed"
    );
    for key in keys {
        let mut home = key.turn.lock().await;
        if let Err(reason) = move_over::if_due(&job, &key, &mut home).await {
            tracing::error!(key = key.name, reason, "the key could not move to the new optimizer");
        }
    }
    let schedule = optimizer.rates.lock().newest_status();
    Ok(Response::Deployed { optimizer: status, from_round, state_kept, schedule, groups: by_group })
}

/// Everything about the component itself.
fn check(job: &Job, submission: Submission) -> Answered<Accepted> {
    let Submission { component, options } = submission;
    // Read for each deployment: a publisher's key that the operator revokes is revoked from then on.
    let store = TrustStore::load(&job.config.trust.store)
        .map_err(|error| Refusal::new(ErrorCode::Internal, format!("the trust store cannot be used: {error}")))?
        .with_max_component_bytes(usize::try_from(job.config.limits.component_bytes).unwrap_or(usize::MAX));
    let untrusted = |error: stepbox_trust::TrustError| Refusal::new(ErrorCode::Untrusted, error.to_string());
    let verified = store.verify(component).map_err(untrusted)?;
    job.ledger.lock().check(&verified).map_err(untrusted)?;

    let component = job.sandbox.admit(verified.bytes()).map_err(|error| not_admitted(&error))?;
    let (signed, own) = (&verified.manifest().name, &component.description().name);
    if verified.manifest().own_name() != own {
        return Err(Refusal::new(
            ErrorCode::NotAdmitted,
            format!(
                "the component calls itself `{own}` and was signed as `{signed}`; its publisher must sign it as \
                 `{own}`, with a namespace before it or without"
            ),
        ));
    }
    let groups = Groups::new(&component, &options)
        .map_err(|error| Refusal::new(ErrorCode::Hyperparameter, error.to_string()))?;
    Ok(Accepted { verified, component, groups, options })
}

async fn plan_all(accepted: &Accepted, keys: Vec<Arc<Key>>, shards: usize) -> Answered<HashMap<KeyId, Arc<Planned>>> {
    let (component, groups) = (accepted.component.clone(), accepted.groups.clone());
    off_the_runtime(move || {
        keys.iter()
            .map(|key| match Planned::new(&component, &groups, &key.unplanned(shards)) {
                Ok(planned) => Ok((key.id, Arc::new(planned))),
                Err(error) => Err(not_admitted(&error)),
            })
            .collect()
    })
    .await
}

/// Keys that an optimizer combines go through their rounds together, which they can only where they stand together.
fn check_rounds(keys: &[Arc<Key>], plans: &HashMap<KeyId, Arc<Planned>>) -> Answered<()> {
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
fn count_by_group(groups: &Groups, plans: &HashMap<KeyId, Arc<Planned>>) -> Vec<(String, u64)> {
    let count = |name: &str| plans.values().filter(|planned| planned.tensor.group == name).count() as u64;
    groups.names().map(|name| (name.to_owned(), count(name))).collect()
}

/// Room for every slice, on all shards at the same time.
async fn prepare(job: &Job, optimizer: &Arc<Optimizer>, keys: &[Arc<Key>]) -> Answered<()> {
    let mut slices = vec![Vec::new(); job.shards.count()];
    for key in keys {
        let Some(planned) = optimizer.plan(key.id) else { continue };
        for slice in new_slices(key.id, &planned) {
            slices[slice.slice.shard].push(slice);
        }
    }
    bind(job, optimizer, slices).await
}

/// A key's slices as a shard wants to have them.
pub(crate) fn new_slices(key: KeyId, planned: &Arc<Planned>) -> impl Iterator<Item = NewSlice> {
    planned.slices.iter().enumerate().map(move |(index, slice)| NewSlice {
        key,
        index,
        slice: slice.clone(),
        planned: Arc::clone(planned),
    })
}

/// Has every shard make room for its slices. On an error some may have been bound.
pub(crate) async fn bind(job: &Job, optimizer: &Arc<Optimizer>, slices: Vec<Vec<NewSlice>>) -> Answered<()> {
    let internal = |lost: crate::shard::ShardLost| Refusal::new(ErrorCode::Internal, lost.to_string());
    let mut running = Vec::new();
    for (shard, slices) in slices.into_iter().enumerate().filter(|(_, slices)| !slices.is_empty()) {
        let optimizer = Arc::clone(optimizer);
        let pending = job.shards.submit(shard, move |shard| shard.prepare(&optimizer, &slices)).await;
        running.push(pending.map_err(internal)?);
    }
    // All are waited for, so that nothing is still being bound when the first error is answered.
    let mut outcome = Ok(());
    for pending in running {
        let bound =
            pending.wait().await.map_err(internal).and_then(|bound| bound.map_err(|error| not_admitted(&error)));
        outcome = outcome.and(bound);
    }
    outcome
}

async fn discard(job: &Job, optimizer: &Optimizer) {
    for shard in 0..job.shards.count() {
        let id = optimizer.id;
        // A shard that is gone has nothing left to discard.
        let _ = job.shards.submit(shard, move |shard| shard.discard(id)).await;
    }
}

/// Chooses the round. Returns it, and whether all keys keep their state.
fn take_effect(job: &Job, optimizer: &Arc<Optimizer>, start: &Start, keys: &[Arc<Key>]) -> (u64, bool) {
    // While this is held no gradient is counted.
    let mut deployments = job.deployments.write();
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
    deployments.deploy(Deployed { optimizer: Arc::clone(optimizer), from_round }, keys.len());
    (from_round, state_kept)
}

/// The answer to a sandbox's refusal, by who has to act.
pub(crate) fn not_admitted(error: &SandboxError) -> Refusal {
    let code = match error.fault() {
        Fault::Publisher => ErrorCode::NotAdmitted,
        Fault::Operator => ErrorCode::Busy,
        // Only a step can fail so.
        Fault::Worker => ErrorCode::NotFinite,
        Fault::Server => ErrorCode::Internal,
    };
    Refusal::new(code, error.to_string())
}

/// Runs what takes long on a thread of its own.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Answered<T> + Send + 'static,
) -> Answered<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        tracing::error!(%panic, "a task has panicked");
        Err(Refusal::new(
            ErrorCode::Internal,
            "the server failed while it worked on this; please report it with its log",
        ))
    })
}
