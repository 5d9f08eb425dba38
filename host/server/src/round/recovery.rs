//! A key whose weights or state an optimizer has changed outside the key's own steps. The sandbox finds that before it uses
//! any of it; here the key gets something to go on with.

use std::sync::Arc;

use stepbox_sandbox::SandboxError;

use crate::job::Job;
use crate::model::{Key, Placement};

/// How many rows are named in the log.
const NAMED_ROWS: usize = 16;

/// After a round of the key has failed: where what the sandbox holds is not what the key's steps have left there, its weights
/// go back to those published, and its state starts afresh, as at a new deployment.
///
/// Where rounds touch some rows only and nobody has read all of them since, nothing is published. Then such rows can neither
/// be read nor stepped until another optimizer takes the key over: see [`before_moving`].
pub(crate) async fn after_failure(job: &Arc<Job>, key: &Arc<Key>, placement: &mut Option<Placement>) {
    let Some(placement) = placement else { return };
    let Some(error) = damage(job, key, placement).await else { return };
    let optimizer = placement.optimizer.status.name.as_str();
    let Some(weights) = key.weights() else {
        tracing::error!(key = key.name, optimizer, %error, "rows of the key are lost; deploy another optimizer to go on");
        return;
    };
    for shard in placement.planned.shards() {
        let (optimizer, id, weights) = (placement.optimizer.id, key.id, Arc::clone(&weights));
        let loaded = job.shards.attempt(shard, move |shard| shard.load(optimizer, id, &weights)).await;
        let Err(failure) = loaded else { continue };
        // It stays unusable, and each of its rounds comes here again.
        tracing::error!(key = key.name, failure, "the key's weights could not be put back");
        return;
    }
    (placement.state_since, placement.last) = (key.version(), None);
    tracing::warn!(
        key = key.name,
        optimizer = placement.optimizer.status.name,
        version = key.version(),
        %error,
        "the key's weights went back to those published, and its optimizer state starts afresh"
    );
}

/// Before another optimizer takes the key over. Returns whether its state can be kept.
///
/// Where the key is not what its steps have left and nothing is published, the rows that were changed become zeros.
pub(crate) async fn before_moving(job: &Arc<Job>, key: &Arc<Key>, placement: &Placement) -> Result<bool, String> {
    let Some(error) = damage(job, key, placement).await else { return Ok(true) };
    if key.weights().is_some() {
        tracing::warn!(key = key.name, %error, "the key moves with the weights published, and its state starts afresh");
        return Ok(false);
    }
    let mut afresh = Vec::new();
    for shard in placement.planned.shards() {
        let (optimizer, id) = (placement.optimizer.id, key.id);
        afresh.extend(job.shards.attempt(shard, move |shard| shard.start_rows_afresh(optimizer, id)).await?);
    }
    let (count, rows) = (afresh.len(), &afresh[..afresh.len().min(NAMED_ROWS)]);
    tracing::warn!(key = key.name, count, ?rows, %error, "these rows of the key start afresh, at zero");
    Ok(true)
}

/// What the sandbox says of a key that is not what its own steps have left there.
async fn damage(job: &Job, key: &Key, placement: &Placement) -> Option<SandboxError> {
    for shard in placement.planned.shards() {
        let (optimizer, id) = (placement.optimizer.id, key.id);
        // A shard that is gone is somebody else's concern.
        if let Ok(Err(error)) = job.shards.call(shard, move |shard| shard.verify(optimizer, id)).await {
            return Some(error);
        }
    }
    None
}
