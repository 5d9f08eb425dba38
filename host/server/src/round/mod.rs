//! One round of one key, from its last gradient to its new weights.
//!
//! All slices of the key step at the same time, each on the shard thread that owns it. Only when every one has succeeded
//! are the steps kept and the weights published; otherwise all are taken back, the key stays at its version bit for bit,
//! and the round is open again without its gradients.
//!
//! How the slices step depends on the optimizer's plan: in one pass, for which each slice's gradients are handed to the
//! thread that owns it ([`one_pass`]), phase by phase with statistics combined in between ([`phases`]), or row by row
//! ([`rows`]).

pub(crate) mod evaluation;
mod input;
pub(crate) mod migration;
mod one_pass;
mod phases;
pub(crate) mod published;
mod recovery;
mod rows;
mod update;

use std::sync::Arc;
use std::time::Instant;

use stepbox_sandbox::StepContext;
use stepbox_wire::ErrorCode;

use crate::audit::{Action, Event};
use crate::job::{Job, Magnitudes, Worker};
use crate::model::{Key, NewWeights, Placement, Pushed};
use crate::names::Answered;
use crate::shard::Step;
use crate::tensor::{Contribution, gradient};
use input::RoundInput;
use update::{Settlement, Update};

/// Counts a gradient, as [`Job::count`] does. The gradient that completes its round sets the update going. Returns
/// whether it was there before.
pub(crate) fn push(
    job: &Arc<Job>,
    key: &Arc<Key>,
    worker: Worker,
    round: u64,
    contribution: Contribution,
) -> Answered<bool> {
    match job.count(key, worker, round, contribution)? {
        Pushed::Counted => Ok(false),
        Pushed::Repeated => Ok(true),
        Pushed::Completed(contributions) => {
            start(job, key, round, contributions);
            Ok(false)
        }
    }
}

/// Sets the update going. It ends in the key's new version or in the round's failure, whatever happens.
fn start(job: &Arc<Job>, key: &Arc<Key>, round: u64, contributions: Vec<Contribution>) {
    let since = Instant::now();
    let job = Arc::clone(job);
    let unfinished = Unfinished { key: Some(Arc::clone(key)) };
    let magnitudes = Magnitudes::new(contributions.iter().map(|contribution| contribution.largest));
    tokio::spawn(async move {
        let Some(key) = unfinished.key.clone() else { return };
        let mut placement = key.turn.lock().await;
        let mut settlement = Settlement::default();
        match run(&job, &key, &mut placement, round, contributions, &mut settlement).await {
            Ok(weights) => {
                job.statistics.count_update(since.elapsed());
                job.offenders.succeeded(key.id);
                unfinished.succeed(weights);
            }
            Err(reason) => {
                if let Some(rank) = magnitudes.outlier() {
                    job.offenders.failed(key.id, rank);
                }
                let gradients = magnitudes.describe(&job.workers.members.borrow());
                let reason = gradients.map_or(reason.clone(), |gradients| format!("{reason}; {gradients}"));
                tracing::error!(key = key.name, round, reason, "a round has failed");
                note_failure(&job, &key, placement.as_ref(), round, &reason);
                unfinished.fail(&reason);
            }
        }
        let failed = key.next_round().1;
        settlement.finish(&key).await;
        if failed {
            recovery::after_failure(&job, &key, &mut placement).await;
        }
        // Where an optimizer waits for this version, or for this failure, the key moves before its next round.
        if let Err(reason) = migration::if_due(&job, &key, &mut placement).await {
            tracing::error!(key = key.name, reason, "the key could not move to the new optimizer");
        }
    });
}

fn note_failure(job: &Job, key: &Key, placement: Option<&Placement>, round: u64, reason: &str) {
    let digest = placement.map_or("", |placed| &placed.optimizer.status.digest);
    let round = round.to_string();
    let details = [("optimizer", digest), ("round", &round)];
    let event = Event::noted(Action::Round).about(&key.name).because(reason).with(&details);
    job.audit.note(&event.code(ErrorCode::OptimizerFailed));
}

/// A round that has been taken from the key. Should its task die, the round fails instead of staying open for ever.
struct Unfinished {
    key: Option<Arc<Key>>,
}

impl Unfinished {
    fn succeed(mut self, weights: NewWeights) {
        if let Some(key) = self.key.take() {
            key.publish(weights);
        }
    }

    fn fail(mut self, reason: &str) {
        if let Some(key) = self.key.take() {
            key.fail(reason);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            key.fail("the server failed while it ran the round; please report it with the server's log");
        }
    }
}

/// Runs the round. On success the sandbox holds the new weights that are returned, on failure the old ones.
async fn run(
    job: &Arc<Job>,
    key: &Arc<Key>,
    placement: &mut Option<Placement>,
    round: u64,
    contributions: Vec<Contribution>,
    settlement: &mut Settlement,
) -> Result<NewWeights, String> {
    migration::if_due(job, key, placement).await?;
    let placement = placement.as_mut().ok_or("no optimizer holds the key's weights; deploy one (`stepbox deploy`)")?;
    if let Some(paused) = placement.optimizer.paused() {
        return Err(paused.message);
    }
    if placement.planned.slices.is_empty() {
        // A tensor without elements, whatever its shape.
        return Ok(NewWeights::Chunks(Vec::new()));
    }
    let context = context(job, placement, round, gradient::mean_loss(&contributions))?;
    let input = RoundInput::of(job, key, placement, contributions).await?;
    let reduction = job.config.job.reduction();
    let step = Step { optimizer: placement.optimizer.id, key: key.id, context, reduction };
    let update = Update { job, key, placement, shards: placement.planned.shards(), step: Arc::new(step) };
    let mut is_settled = false;
    let outcome = match input {
        RoundInput::OnePass(handed_over) => {
            let outcome = one_pass::run(&update, handed_over).await;
            // What a single shard was handed, it has settled if it succeeded.
            is_settled = outcome.is_ok() && update.is_alone();
            outcome.map(NewWeights::Chunks)
        }
        RoundInput::Phases(gradients) => phases::run(&update, gradients, round).await.map(NewWeights::Chunks),
        RoundInput::Rows(rows) => rows::run(&update, rows).await.map(|()| NewWeights::InSandbox),
    };
    if !is_settled {
        update.settle(outcome.is_ok(), settlement).await;
    }
    if outcome.is_ok() {
        placement.last = Some(context);
    }
    outcome
}

fn context(job: &Job, placement: &Placement, round: u64, loss: Option<f32>) -> Result<StepContext, String> {
    let Placement { optimizer, planned, schedule_since, .. } = placement;
    if loss.is_none() && optimizer.component.description().needs_loss {
        // It was not needed by the optimizer that the gradients were pushed for.
        return Err(format!("{} needs the loss; push the round again with it", optimizer.status.name));
    }
    let rate = optimizer.rates.lock().at(round, *schedule_since);
    let multiplier = planned.treatment.learning_rate_multiplier;
    Ok(StepContext {
        step: round,
        tensor_step: round - placement.state_since,
        // The contract counts in f32; the operator's text was f64.
        learning_rate: (rate.learning_rate * multiplier) as f32,
        peak_learning_rate: (rate.peak * multiplier) as f32,
        contributors: job.workers.count,
        staleness: 0,
        loss,
        seed: job.config.job.seed,
    })
}
