//! The gradients of a round, in the form that its optimizer's plan needs.

use std::sync::Arc;

use stepbox_reduce::Format;
use stepbox_sandbox::{Granularity, Plan};

use super::one_pass::{self, HandedOver};
use crate::job::Job;
use crate::model::{Key, Placement};
use crate::shard::MergedRows;
use crate::tensor::{Contribution, Dense, gradient};

/// What a round is computed from, which decides how it runs.
pub(super) enum RoundInput {
    /// Whole tensors that the slices' owners are given, for a single pass over each slice.
    OnePass(HandedOver),
    /// Whole tensors that are kept to the end of the round, for any number of passes.
    Phases(Vec<Dense>),
    /// The rows that any worker has a gradient for.
    Rows(MergedRows),
}

impl RoundInput {
    /// Decides how a round runs. Nothing else decides it.
    pub async fn of(
        job: &Job,
        key: &Arc<Key>,
        placement: &Placement,
        contributions: Vec<Contribution>,
    ) -> Result<Self, String> {
        let plan = &placement.planned.plan;
        match plan.granularity {
            Granularity::TouchedRows => Ok(Self::Rows(touched_rows(plan, contributions).await?)),
            Granularity::Elements | Granularity::Tensor => {
                let row_bytes = key.row_layout().map_or(0, |layout| layout.row_bytes);
                let expanding = Arc::clone(key);
                let buffers = move || expanding.gradient_buffers(Format::F32);
                let gradients = gradient::whole(contributions, row_bytes, buffers).await?;
                Ok(match one_pass::former(job, key, placement) {
                    Some(former) => Self::OnePass(HandedOver::new(key, gradients, former)),
                    None => Self::Phases(gradients),
                })
            }
        }
    }
}

/// The rows that any worker has a gradient for. Off the runtime: it takes as long as they are many.
async fn touched_rows(plan: &Arc<Plan>, contributions: Vec<Contribution>) -> Result<MergedRows, String> {
    let geometry = plan.geometry;
    let merge = move || {
        let gradients = contributions.into_iter().map(|contribution| contribution.gradient).collect();
        MergedRows::new(geometry.rows, geometry.columns as usize, gradients)
    };
    tokio::task::spawn_blocking(merge).await.map_err(|panic| format!("rows could not be merged: {panic}"))
}
