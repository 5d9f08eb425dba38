//! A round that is a single pass over each slice: most optimizers.

use super::Update;

/// Steps all slices and returns their new weights in order.
pub(super) async fn run(update: &Update<'_>) -> Result<Vec<Vec<u8>>, String> {
    let mut buffers = update.buffers();
    let alone = update.shards.len() == 1;
    let stepped = update
        .on_shards(|shard| {
            let buffers = buffers(shard);
            move |shard, step| shard.step(step, buffers, alone)
        })
        .await?;
    Ok(update.in_order(stepped))
}
