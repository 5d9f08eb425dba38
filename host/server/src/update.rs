//! One round of one key, from its last gradient to its new weights.
//!
//! All slices of the key step at the same time, each on the shard thread that owns it. Only when every one has succeeded
//! are the steps kept and the weights published; otherwise all are taken back, the key stays at its version bit for bit,
//! and the round is open again without its gradients.

use std::sync::Arc;
use std::time::Instant;

use stepbox_sandbox::StepContext;

use crate::job::Job;
use crate::key::{Key, Residence};
use crate::move_over;
use crate::shard::{NewChunk, ShardLost, Step, StepFailure};

/// Sets the update going. It ends in the key's new version or in the round's failure, whatever happens.
pub(crate) fn start(job: &Arc<Job>, key: &Arc<Key>, round: u64, gradients: Vec<Vec<u8>>) {
    let since = Instant::now();
    let job = Arc::clone(job);
    let unfinished = Unfinished { key: Some(Arc::clone(key)) };
    tokio::spawn(async move {
        let Some(key) = unfinished.key.clone() else { return };
        let mut home = key.turn.lock().await;
        match run(&job, &key, &mut home, round, gradients).await {
            Ok(chunks) => {
                job.statistics.count_update(since.elapsed());
                unfinished.succeed(chunks);
            }
            Err(reason) => {
                tracing::error!(key = key.name, round, reason, "a round has failed");
                unfinished.fail(&reason);
            }
        }
        // Where an optimizer waits for this version, or for this failure, the key moves before its next round.
        if let Err(reason) = move_over::if_due(&job, &key, &mut home).await {
            tracing::error!(key = key.name, reason, "the key could not move to the new optimizer");
        }
    });
}

/// A round that has been taken from the key. Should its task die, the round fails instead of staying open for ever.
struct Unfinished {
    key: Option<Arc<Key>>,
}

impl Unfinished {
    fn succeed(mut self, chunks: Vec<Vec<u8>>) {
        if let Some(key) = self.key.take() {
            key.publish(chunks);
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

/// Steps all slices. On success the sandbox holds the new weights that are returned, on failure the old ones.
async fn run(
    job: &Arc<Job>,
    key: &Arc<Key>,
    home: &mut Option<Residence>,
    round: u64,
    gradients: Vec<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, String> {
    move_over::if_due(job, key, home).await?;
    let residence = home.as_ref().ok_or("no optimizer holds the key's weights; deploy one (`stepbox deploy`)")?;

    let shards = key.shards();
    let optimizer = residence.optimizer.id;
    let step = Arc::new(Step {
        optimizer,
        key: key.id,
        context: context(job, residence, round),
        gradients,
        aggregation: job.config.job.aggregation,
        alone: shards.len() == 1,
    });
    let mut buffers = key.retired_buffers();
    buffers.resize(key.slices.len(), Vec::new());
    let mut running = Vec::with_capacity(shards.len());
    for shard in &shards {
        let owned = key.slices.iter().zip(&mut buffers).filter(|(slice, _)| slice.shard == *shard);
        let buffers: Vec<_> = owned.map(|(_, buffer)| std::mem::take(buffer)).collect();
        let step = Arc::clone(&step);
        running.push(job.shards.submit(*shard, move |shard| shard.step(&step, buffers)).await);
    }
    let mut outcomes = Vec::with_capacity(shards.len());
    for pending in running {
        outcomes.push(match pending {
            Ok(pending) => pending.wait().await,
            Err(lost) => Err(lost),
        });
    }
    // The shards are done with them.
    if let Some(step) = Arc::into_inner(step) {
        key.keep_buffers(step.gradients);
    }
    settle(job, key, residence, shards, outcomes).await
}

/// Keeps the step on all shards, or takes it back on those where it succeeded.
async fn settle(
    job: &Arc<Job>,
    key: &Arc<Key>,
    residence: &Residence,
    shards: Vec<usize>,
    outcomes: Vec<Result<Result<Vec<NewChunk>, StepFailure>, ShardLost>>,
) -> Result<Vec<Vec<u8>>, String> {
    let mut chunks = vec![Vec::new(); key.slices.len()];
    let mut succeeded = Vec::new();
    let mut failure = None;
    for (shard, outcome) in shards.into_iter().zip(outcomes) {
        match outcome {
            Ok(Ok(new)) => {
                succeeded.push(shard);
                new.into_iter().for_each(|(index, chunk)| chunks[index] = chunk);
            }
            Ok(Err(error)) => {
                let status = &residence.optimizer.status;
                failure.get_or_insert_with(|| format!("{} {}: {error}", status.name, status.version));
            }
            Err(lost) => {
                failure.get_or_insert_with(|| lost.to_string());
            }
        }
    }
    let (optimizer, id) = (residence.optimizer.id, key.id);
    let keep = failure.is_none();
    if !keep || succeeded.len() > 1 {
        for shard in succeeded {
            // A shard does its work in order, so this is done before anything else is done with the key. A shard that
            // is gone since has nothing left to settle.
            let _ = job.shards.submit(shard, move |shard| shard.settle(optimizer, id, keep)).await;
        }
    }
    failure.map_or(Ok(chunks), Err)
}

fn context(job: &Job, residence: &Residence, round: u64) -> StepContext {
    // The contract counts in f32; the operator's text was f64.
    let learning_rate = residence.optimizer.settings.learning_rate() as f32;
    StepContext {
        step: round,
        tensor_step: round - residence.state_since,
        learning_rate,
        peak_learning_rate: learning_rate,
        contributors: job.workers,
        staleness: 0,
        loss: None,
        seed: job.config.job.seed,
    }
}
