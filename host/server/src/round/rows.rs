//! A round that touches some rows of a key: its work is in proportion to them. The weights stay in the sandbox alone.

use super::Update;

/// Steps the touched rows of all slices.
pub(super) async fn run(update: &Update<'_>) -> Result<(), String> {
    update.on_shards(|_| |shard, step| shard.step_rows(step)).await.map(|_| ())
}
