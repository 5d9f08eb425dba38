//! A round of several passes. After each pass all slices' contributions are combined in their order in the tensor; what
//! a group or the whole model shares is combined over all keys' updates, which meet for that.

use std::collections::BTreeSet;
use std::sync::Arc;

use stepbox_sandbox::{Accumulators, Scope};

use super::update::Update;
use crate::job::{MeetingFailure, Occasion, Part};
use crate::model::Key;
use crate::names::TensorId;
use crate::shard::Contributed;
use crate::tensor::Dense;

/// Runs all phases and returns the new weights of all slices in order.
pub(super) async fn run(update: &Update<'_>, gradients: Vec<Dense>, round: u64) -> Result<Vec<Vec<u8>>, String> {
    let gradients = Arc::new(gradients);
    let plan = &update.placement.planned.plan;
    let mut accumulators = Accumulators::new(Arc::clone(plan));
    for phase in 0..plan.phases.len() as u32 {
        if plan.gathers_before(phase) {
            let gathered = update
                .on_shards(|_| {
                    let gradients = Arc::clone(&gradients);
                    move |shard, step| shard.statistics(step, &gradients, phase)
                })
                .await?;
            accumulators.add(update.in_order(gathered));
        }
        meet(update, &mut accumulators, round, phase).await?;
        let passed = update
            .on_shards(|_| {
                let (gradients, accumulators) = (Arc::clone(&gradients), accumulators.clone());
                move |shard, step| shard.phase(step, &gradients, phase, accumulators)
            })
            .await?;
        let mut contributed: Vec<Vec<Contributed>> = Vec::with_capacity(passed.len());
        for (contributions, taken_up) in passed {
            contributed.push(contributions);
            // What rows and columns gave is taken up on the way, by the only shard that such a tensor is on.
            accumulators = taken_up;
        }
        accumulators.add(update.in_order(contributed));
    }
    let mut buffers = update.buffers();
    let read = update
        .on_shards(|shard| {
            let buffers = buffers(shard);
            move |shard, step| shard.read_out(step, buffers)
        })
        .await?;
    Ok(update.in_order(read))
}

/// Completes what this phase is the first to read of accumulators that tensors share.
async fn meet(update: &Update<'_>, accumulators: &mut Accumulators, round: u64, phase: u32) -> Result<(), String> {
    let planned = &update.placement.planned;
    let shared: Vec<(usize, f64)> = accumulators.shared(phase).collect();
    for scope in [Scope::Group, Scope::Model] {
        let of_scope = |(index, _): &&(usize, f64)| planned.plan.accumulators[*index].scope == scope;
        let mine: Vec<&(usize, f64)> = shared.iter().filter(of_scope).collect();
        if mine.is_empty() {
            continue;
        }
        let name = |index: usize| planned.plan.accumulators[index].name.clone();
        let numbers = mine.iter().map(|(index, number)| (name(*index), *number)).collect();
        let part = Part { identity: planned.tensor.identity, numbers };
        let group = (scope == Scope::Group).then(|| planned.tensor.group.clone());
        let occasion = Occasion { optimizer: update.placement.optimizer.id, round, phase, group };
        let patience = update.job.config.job.round_timeout_seconds.duration();
        let met = update
            .job
            .rendezvous
            .meet(&occasion, update.key.id, part, || expected(update, scope, round, phase), patience)
            .await;
        let parts = met.map_err(|failure| missed(update, &failure, round))?;
        for (index, _) in mine {
            let of_tensor =
                |part: &Part| part.numbers.iter().find(|(other, _)| *other == name(*index)).map(|(_, number)| *number);
            accumulators.set_shared(*index, parts.iter().filter_map(of_tensor));
        }
    }
    Ok(())
}

/// The keys whose plans combine something in this scope before this phase, in the same group where that is the scope, and
/// that have yet to finish this round. (One that has finished it was there when another of its keys failed, and will not
/// come again.)
fn expected(update: &Update<'_>, scope: Scope, round: u64, phase: u32) -> BTreeSet<TensorId> {
    let group = &update.placement.planned.tensor.group;
    let takes_part = |key: &Arc<Key>| {
        update.placement.optimizer.plan(key.id).is_some_and(|planned| {
            let combines = planned
                .plan
                .accumulators
                .iter()
                .any(|accumulator| accumulator.scope == scope && accumulator.read_from == phase);
            combines && !planned.slices.is_empty() && (scope == Scope::Model || planned.tensor.group == *group)
        })
    };
    let keys = update.job.model.all().into_iter().filter(|key| key.version() < round);
    keys.filter(takes_part).map(|key| key.id).collect()
}

fn missed(update: &Update<'_>, failure: &MeetingFailure, round: u64) -> String {
    let MeetingFailure::Missing(keys) = failure else {
        return "the run that the round belonged to has ended, or the optimizer is paused".into();
    };
    let status = &update.placement.optimizer.status;
    format!(
        "{} combines all keys in a round, and round {round} of {} did not come: workers must push all keys before they \
         pull any",
        status.name,
        update.job.describe_keys(keys)
    )
}
