//! A round that touches some rows of a key: its work is in proportion to them. The weights stay in the sandbox alone.

use std::sync::Arc;

use super::update::Update;
use crate::shard::{MergedRows, Shard, Step};

/// Steps the touched rows of all slices.
pub(super) async fn run(update: &Update<'_>, rows: MergedRows) -> Result<(), String> {
    let rows = Arc::new(rows);
    let step_rows = |_| {
        let rows = Arc::clone(&rows);
        move |shard: &mut Shard, step: &Step| shard.step_rows(step, &rows)
    };
    update.on_shards(step_rows).await.map(|_| ())
}
