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
//! 5. its file is kept to go back to ([`archive`]), and the ledger of versions records what is intended;
//! 6. rights and trust are looked at once more and the round is chosen: one more than the highest any gradient has been counted for. Every key updates with the new
//!    optimizer from that round on, so no round mixes two optimizers, except where a key's round has failed: that key
//!    moves at once and runs the round again with the new one. Keys that stand right before the chosen round move at
//!    once too, the others when they get there ([`migration`]).

mod checks;
mod key_creation;
pub(crate) mod learning_rate;
mod mandate;
mod preparation;
mod revocation;
mod submissions;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use stepbox_trust::{Claims, Digest, Intent, VerifiedComponent};
use stepbox_wire::{DeployOptions, ErrorCode, OptimizerStatus, Response};

pub(crate) use checks::not_admitted;
pub(crate) use key_creation::create;
pub(crate) use revocation::{status, watch};
pub(crate) use submissions::{submit, submitted_after, withdraw};

use crate::audit::{Action, Event};
use crate::component::{Archive, FileLease, Kept};
use crate::config::Right;
use crate::job::{Job, Turn, off_the_runtime};
use crate::model::Key;
use crate::names::{Answered, Identity, Refusal, TensorId};
use crate::optimizer::{Deployed, Groups, Optimizer, Planned};
use crate::round::migration;
use crate::shard::{NewSlice, ShardLost};
use checks::Accepted;
use learning_rate::Start;
use mandate::Mandate;

/// What is to be deployed.
pub(crate) enum Wanted {
    /// A component as it came.
    File { component: Vec<u8>, options: DeployOptions },
    /// One that was submitted, by its digest.
    Submitted { digest: String, options: DeployOptions },
    /// One that was deployed before: the last, or the one of this digest.
    Former { to: Option<String> },
}

impl Wanted {
    fn action(&self) -> Action {
        match self {
            Self::File { .. } => Action::Deploy,
            Self::Submitted { .. } => Action::Activate,
            Self::Former { .. } => Action::Rollback,
        }
    }

    /// What one must be allowed to do for it.
    fn rights(&self) -> &'static [Right] {
        match self {
            Self::File { .. } => &[Right::Activate, Right::Submit],
            Self::Submitted { .. } | Self::Former { .. } => &[Right::Activate],
        }
    }

    fn about(&self) -> OptimizerStatus {
        match self {
            Self::File { component, .. } => claimed(component),
            Self::Submitted { digest, .. } => named(digest.clone()),
            Self::Former { to } => named(to.clone().unwrap_or_default()),
        }
    }
}

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

/// Notes what has become of a request to submit, deploy and so on.
fn decided(
    job: &Job,
    action: Action,
    by: &Identity,
    about: &OptimizerStatus,
    outcome: Answered<Response>,
) -> Answered<Response> {
    let from_round = match &outcome {
        Ok(Response::Deployed { from_round, .. }) => from_round.to_string(),
        _ => String::new(),
    };
    let outcome = outcome.map_err(|mut refusal| {
        refusal.shorten();
        Refusal { audited: true, ..refusal }
    });
    let reason = outcome.as_ref().err().and_then(|refusal| refusal.reason).unwrap_or_default();
    let OptimizerStatus { name, version, publisher, digest } = about;
    let details = [
        ("name", name.as_str()),
        ("version", version),
        ("publisher", publisher),
        ("from_round", &from_round),
        ("reason", reason),
    ];
    let details: Vec<_> = details.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let event = match &outcome {
        Ok(_) => Event::allowed(action),
        Err(refusal) => Event::refused(action, &refusal.message).code(refusal.code),
    };
    job.audit.record(&event.by(by).about(digest).with(&details));
    outcome
}

/// What an unverified file says of itself, for those who read of an attempt with it.
fn claimed(component: &[u8]) -> OptimizerStatus {
    match Claims::read(component) {
        Ok(claims) => OptimizerStatus {
            name: claims.manifest.name,
            version: claims.manifest.version.to_string(),
            publisher: claims.manifest.publisher.to_string(),
            digest: claims.digest.to_string(),
        },
        Err(_) => named(Digest::of(component).to_string()),
    }
}

/// Of which only the digest is known.
fn named(digest: String) -> OptimizerStatus {
    OptimizerStatus { name: String::new(), version: String::new(), publisher: String::new(), digest }
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

/// A key's slices as a shard wants to have them.
pub(crate) fn new_slices(key: TensorId, planned: &Arc<Planned>) -> impl Iterator<Item = NewSlice> {
    planned.slices.iter().enumerate().map(move |(index, slice)| NewSlice {
        key,
        index,
        slice: slice.clone(),
        planned: Arc::clone(planned),
    })
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

/// What is on disk before a deployment takes effect.
struct Recorded {
    /// In the ledger.
    intent: Intent,
    /// The component's file.
    lease: FileLease,
}

/// Puts the component where a rollback finds it, until it is remembered, and its version where no older one gets past it.
fn record(job: &Job, verified: &VerifiedComponent, is_new: bool) -> Answered<Recorded> {
    let lease = keep(job, &job.archive.lock(), verified)?;
    let mut ledger = job.ledger.lock();
    let intent = if is_new { ledger.record(verified) } else { ledger.record_rollback(verified) };
    let intent = intent.map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()).because("ledger"))?;
    Ok(Recorded { intent, lease })
}

/// Has the ledger forget what has not taken effect. What fails here costs only other content under the same version.
async fn withdraw_intent(job: &Arc<Job>, intent: Intent) {
    let ledger = Arc::clone(job);
    let withdrawn = tokio::task::spawn_blocking(move || ledger.ledger.lock().withdraw(intent));
    if let Ok(Err(error)) = withdrawn.await {
        tracing::error!(%error, "the version ledger on disk still has a deployment that was refused");
    }
}

/// Keeps a component's file. One of the same content that is there is replaced only where it is not good any more, or where
/// this one has more signatures: it is not to lose those of others.
fn keep(job: &Job, archive: &Archive, verified: &VerifiedComponent) -> Answered<FileLease> {
    let digest = verified.digest().to_string();
    let known = archive.read(&digest, job.config.limits.component_bytes).ok();
    let known = known.and_then(|bytes| job.trust.store_for_deployment().ok()?.verify_stored(bytes).ok());
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
async fn remember(
    job: &Arc<Job>,
    recorded: Option<Recorded>,
    status: OptimizerStatus,
    options: DeployOptions,
    former: Option<Kept>,
) {
    let remembering = Arc::clone(job);
    let remembered = tokio::task::spawn_blocking(move || {
        if let Some(Recorded { intent, lease }) = recorded {
            if let Err(error) = remembering.ledger.lock().took_effect(intent) {
                tracing::error!(%error, "after a restart the server will not know that this has taken effect");
            }
            // The index names the file before this lets go of it.
            let mut archive = remembering.archive.lock();
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

fn cannot_keep(error: &std::io::Error) -> Refusal {
    let message = format!("the component cannot be kept in the state directory: {error}");
    Refusal::new(ErrorCode::Internal, message).because("archive")
}

fn unknown_component(digest: &str) -> Refusal {
    let message = format!("no component of digest {digest} is submitted; `stepbox submissions` lists what is");
    Refusal::new(ErrorCode::UnknownComponent, message).because("not-submitted")
}

fn no_previous(digest: Option<&str>) -> Refusal {
    let message = match digest {
        None => "there is no deployment before the present one to roll back to".to_owned(),
        Some(digest) => {
            format!("{digest} is not among the deployments that can be rolled back to; the status has them")
        }
    };
    Refusal::new(ErrorCode::UnknownComponent, message).because("no-previous-deployment")
}
