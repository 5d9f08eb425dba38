//! A new key: its tensor is cut, given to shards, and bound in the optimizers that will update it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use stepbox_sandbox::{Preparation, TensorDescription};
use stepbox_wire::{ErrorCode, TensorType};
use tokio::task::JoinSet;

use super::checks::not_admitted;
use super::learning_rate;
use crate::job::{Job, off_the_runtime, panicked};
use crate::model::{Key, Placement, Room, check_type};
use crate::names::{Answered, Refusal, TensorId};
use crate::optimizer::{Optimizer, Planned, Unplanned};
use crate::shard::{NewSlice, new_slices};
use crate::tensor::{Slice, Weights, cut};

/// Makes a key known with its first value, for which there is room, unless it is known already. Returns whether it is
/// new. Runs to its end once it has begun, whether or not anyone waits for the answer.
pub(crate) async fn create(
    job: Arc<Job>,
    name: String,
    tensor: TensorType,
    value: Vec<u8>,
    tags: Vec<String>,
    room: Room,
) -> Answered<(Arc<Key>, bool)> {
    let mut structure = job.lock_structure().await?;
    if let Some(key) = job.model.find(&name) {
        check_type(&key, &tensor)?;
        return Ok((key, false));
    }
    structure.next_key += 1;
    let id = structure.next_key;
    let mut load = structure.load.clone();
    let slices = cut::cut(tensor.elements().unwrap_or(0), &mut load);
    let description = Arc::new(TensorDescription {
        identity: TensorDescription::identity_of(&name),
        name,
        shape: tensor.shape.clone(),
        group: String::new(),
        tags,
    });
    let first = Arc::new(Weights::first(&value, &slices));
    drop(value);

    let optimizers = optimizers(&job);
    if let Some(paused) = optimizers.iter().find_map(|optimizer| optimizer.paused()) {
        return Err(Refusal {
            message: format!("key `{}` cannot be made: {}", description.name, paused.message),
            ..paused
        });
    }
    let mut placement = None;
    for optimizer in &optimizers {
        let budget = Arc::new(optimizer.component.preparation());
        let planned = plan(optimizer, id, &description, &slices, job.shards.count(), &budget).await;
        let bound = match planned.and_then(|planned| check_not_late(&job, optimizer, planned)) {
            Ok(planned) => {
                let mut by_shard = vec![Vec::new(); job.shards.count()];
                for slice in new_slices(id, &planned) {
                    by_shard[slice.slice.shard].push(slice);
                }
                optimizer.add_plan(id, Arc::clone(&planned));
                let bound = bind(&job, optimizer, by_shard, &budget).await;
                placement.get_or_insert_with(|| Placement {
                    optimizer: Arc::clone(optimizer),
                    planned,
                    state_since: 0,
                    schedule_since: learning_rate::in_force(&job, optimizer),
                    last: None,
                });
                bound
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = bound {
            forget(&job, &optimizers, id).await;
            return Err(refusal);
        }
    }

    if let Some(placement) = &placement {
        for shard in placement.planned.shards() {
            let (optimizer, first) = (placement.optimizer.id, Arc::clone(&first));
            let loaded = job.shards.call(shard, move |shard| shard.load(optimizer, id, &first)).await;
            let loaded = match loaded {
                Ok(loaded) => loaded.map_err(|error| not_admitted(&error)),
                Err(lost) => Err(lost.into()),
            };
            if let Err(refusal) = loaded {
                forget(&job, &optimizers, id).await;
                return Err(refusal);
            }
        }
    }

    let key = Arc::new(Key::new(id, description, tensor, slices, first, job.workers.count as usize, placement));
    structure.load = load;
    if let [starts_with, _newest] = optimizers.as_slice() {
        job.deployments.write().add_waiting(starts_with);
    }
    tracing::info!(job = job.config.name, key = key.name, shape = ?key.tensor.shape, slices = key.slices.len(), "a key is known");
    job.model.add(Arc::clone(&key), room);
    Ok((key, true))
}

/// A key that an optimizer combines with others must be there when these begin.
fn check_not_late(job: &Job, optimizer: &Optimizer, planned: Arc<Planned>) -> Answered<Arc<Planned>> {
    // Before the first gradient of the job no key has begun: not to be looked for at each of a model's keys.
    if !planned.plan.shares() || !job.has_begun.load(Ordering::Acquire) {
        return Ok(planned);
    }
    let begun = |key: &Key| {
        let shares = || optimizer.plan(key.id).is_some_and(|planned| planned.plan.shares());
        (key.highest_pushed() > 0 && shares()).then(|| key.name.clone())
    };
    let begun = job.model.after(None, |keys| keys.filter_map(begun).next());
    match begun {
        None => Ok(planned),
        Some(begun) => {
            let message = format!(
                "key `{}` comes too late: {} combines all keys, and key `{begun}` has begun its rounds; make all keys known first",
                planned.tensor.name, optimizer.status.name
            );
            Err(Refusal::new(ErrorCode::OutOfOrder, message))
        }
    }
}

/// The optimizers that will update a key whose first round is 1: the one it starts with, then one it moves to later.
fn optimizers(job: &Job) -> Vec<Arc<Optimizer>> {
    let deployments = job.deployments.read();
    let Some(newest) = deployments.newest() else { return Vec::new() };
    match deployments.in_use() {
        // Nobody starts with one that is paused, where another is to come.
        Some(in_use) if in_use.id != newest.optimizer.id && newest.from_round > 1 && in_use.paused().is_none() => {
            vec![Arc::clone(in_use), Arc::clone(&newest.optimizer)]
        }
        _ => vec![Arc::clone(&newest.optimizer)],
    }
}

async fn plan(
    optimizer: &Arc<Optimizer>,
    id: TensorId,
    description: &Arc<TensorDescription>,
    slices: &[Slice],
    shards: usize,
    budget: &Arc<Preparation>,
) -> Answered<Arc<Planned>> {
    let (optimizer, description, slices) = (Arc::clone(optimizer), Arc::clone(description), slices.to_vec());
    let budget = Arc::clone(budget);
    off_the_runtime(move || {
        let key = Unplanned { id, description: &description, slices: &slices, shards };
        let planned = Planned::new(&optimizer.component, &optimizer.groups, &key, &budget);
        planned.map(Arc::new).map_err(|error| {
            let message = format!("the optimizer does not take key `{}`: {error}", description.name);
            Refusal { message, ..not_admitted(&error) }
        })
    })
    .await
}

/// Has every shard make room for its slices, all shards at the same time, and each with a job a slice: rounds go on in
/// between. On an error some may have been bound.
async fn bind(
    job: &Arc<Job>,
    optimizer: &Arc<Optimizer>,
    slices: Vec<Vec<NewSlice>>,
    budget: &Arc<Preparation>,
) -> Answered<()> {
    let mut running = JoinSet::new();
    for (shard, slices) in slices.into_iter().enumerate().filter(|(_, slices)| !slices.is_empty()) {
        let (job, optimizer, budget) = (Arc::clone(job), Arc::clone(optimizer), Arc::clone(budget));
        running.spawn(async move {
            for slice in slices {
                let (optimizer, budget) = (Arc::clone(&optimizer), Arc::clone(&budget));
                let bound = job.shards.call(shard, move |shard| shard.bind(&optimizer, &slice, &budget)).await?;
                bound.map_err(|error| not_admitted(&error))?;
            }
            Ok(())
        });
    }
    // All are waited for, so that nothing is still being bound when the first error is answered.
    let mut outcome = Ok(());
    while let Some(bound) = running.join_next().await {
        outcome = outcome.and(bound.unwrap_or_else(|panic| Err(panicked(&panic))));
    }
    outcome
}

/// Takes a key that is not to be out of all instances.
async fn forget(job: &Job, optimizers: &[Arc<Optimizer>], key: TensorId) {
    for optimizer in optimizers {
        optimizer.remove_plan(key);
    }
    for shard in 0..job.shards.count() {
        // A shard that is gone has nothing left to forget.
        let _ = job.shards.submit(shard, move |shard| shard.forget(key)).await;
    }
}
