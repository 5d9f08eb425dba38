//! A key's weights for whoever asks: the version that the last round has published, or, where rounds touch some rows only
//! and publish nothing, what the sandbox holds.

use std::sync::Arc;

use stepbox_reduce::CopyError;

use crate::job::Job;
use crate::model::{Key, Placement};
use crate::shard::{FoundRows, NewChunk, Shard, ShardLost, StepFailure};
use crate::tensor::{RowLayout, Weights};

/// All of a key's weights, of one version.
pub(crate) async fn weights(job: &Arc<Job>, key: &Arc<Key>) -> Result<Arc<Weights>, String> {
    if let Some(weights) = key.weights() {
        return Ok(weights);
    }
    // No round of the key runs meanwhile.
    let placement = key.turn.lock().await;
    in_turn(job, key, placement.as_ref()).await
}

/// The same for who holds the key's turn, whose content is `placement`.
pub(crate) async fn in_turn(
    job: &Arc<Job>,
    key: &Arc<Key>,
    placement: Option<&Placement>,
) -> Result<Arc<Weights>, String> {
    if let Some(weights) = key.weights() {
        return Ok(weights);
    }
    let placement = placement.ok_or("the key's weights are nowhere; please report it with the server's log")?;
    let (optimizer, id) = (placement.optimizer.id, key.id);
    let read = gathered(job, key, placement, move |shard| shard.read_all(optimizer, id)).await;
    let weights = Arc::new(read.map_err(|lost| lost.to_string())?.map_err(|error| error.to_string())?);
    key.cache(Arc::clone(&weights));
    Ok(weights)
}

/// What all of a key's shards read of it, all at the same time.
pub(crate) async fn gathered(
    job: &Job,
    key: &Key,
    placement: &Placement,
    read: impl Fn(&mut Shard) -> Result<Vec<NewChunk>, StepFailure> + Clone + Send + 'static,
) -> Result<Result<Weights, StepFailure>, ShardLost> {
    let mut running = Vec::new();
    for shard in placement.planned.shards() {
        running.push(job.shards.submit(shard, read.clone()).await?);
    }
    let mut chunks: Vec<NewChunk> = Vec::new();
    for pending in running {
        match pending.wait().await? {
            Ok(read) => chunks.extend(read),
            Err(failure) => return Ok(Err(failure)),
        }
    }
    chunks.sort_by_key(|(index, _)| *index);
    Ok(Ok(Weights::new(key.version(), chunks.into_iter().map(|(_, chunk)| chunk).collect())))
}

/// Bytes of rows that a shard thread reads at a time: rounds of other keys have their turns in between.
const READ_BYTES: usize = 256 << 10;

/// Some rows of a key's weights, in the order asked for, and their version. Costs in proportion to the rows.
pub(crate) async fn rows(
    job: &Arc<Job>,
    key: &Arc<Key>,
    layout: RowLayout,
    ids: Vec<u64>,
) -> Result<(u64, Vec<u8>), String> {
    let row_bytes = layout.row_bytes;
    let count = ids.len();
    // In order of row, so that each slice finds its own without looking at all.
    let sort = move || {
        let mut wanted: Vec<(u64, usize)> = ids.into_iter().zip(0..).collect();
        wanted.sort_unstable();
        wanted
    };
    let wanted =
        tokio::task::spawn_blocking(sort).await.map_err(|panic| format!("rows could not be sorted: {panic}"))?;
    let placement = key.turn.lock().await;
    let version = key.version();
    let mut rows = vec![0; count * row_bytes];
    if let Some(weights) = key.weights() {
        for (id, position) in wanted {
            let start = id as usize * row_bytes;
            rows[position * row_bytes..][..row_bytes].copy_from_slice(&weights.range(start..start + row_bytes));
        }
        return Ok((version, rows));
    }
    let placement =
        placement.as_ref().ok_or("the key's weights are nowhere; please report it with the server's log")?;
    let wanted = Arc::new(wanted);
    let (optimizer, id, columns) = (placement.optimizer.id, key.id, row_bytes / size_of::<f32>());
    let together = READ_BYTES.div_ceil(row_bytes.max(1));
    for shard in placement.planned.shards() {
        for start in (0..count).step_by(together) {
            let (piece, range) = (Arc::clone(&wanted), start..count.min(start + together));
            let read = move |shard: &mut Shard| shard.read_rows(optimizer, id, columns, &piece[range]);
            let FoundRows { positions, bytes } = job.shards.attempt(shard, read).await?;
            for (position, row) in positions.into_iter().zip(bytes.chunks_exact(row_bytes.max(1))) {
                match stepbox_reduce::copy_finite(row, &mut rows[position * row_bytes..][..row_bytes]) {
                    Ok(()) => {}
                    Err(CopyError::NotFinite(found)) => {
                        let row = wanted.iter().find(|(_, other)| *other == position).map_or(0, |(row, _)| *row);
                        return Err(format!("the optimizer has made row {row} of key `{}` {}", key.name, found.value));
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
    }
    Ok((version, rows))
}
