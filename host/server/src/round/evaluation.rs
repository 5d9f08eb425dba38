//! Weights to evaluate a model with.

use std::sync::Arc;

use stepbox_wire::ErrorCode;

use super::published;
use crate::job::Job;
use crate::model::Key;
use crate::names::{Answered, Refusal};
use crate::shard::Shard;
use crate::tensor::Weights;

/// The weights for evaluation that belong to the key's weights: what the optimizer's phase of that purpose makes of them,
/// or these themselves where it has none or no round has been.
pub(crate) async fn weights(job: &Arc<Job>, key: &Arc<Key>) -> Answered<Arc<Weights>> {
    let internal = |reason: String| Refusal::new(ErrorCode::Internal, reason);
    let placement = key.turn.lock().await;
    let evaluated = placement.as_ref().filter(|placed| placed.planned.plan.evaluation.is_some());
    let Some((placement, context)) = evaluated.and_then(|placed| Some((placed, placed.last?))) else {
        return published::in_turn(job, key, placement.as_ref()).await.map_err(internal);
    };
    if let Some(paused) = placement.optimizer.paused() {
        return Err(paused);
    }
    let (optimizer, id) = (placement.optimizer.id, key.id);
    let evaluate = move |shard: &mut Shard| shard.evaluate(optimizer, id, &context);
    let evaluated = published::gathered(job, key, placement, evaluate).await;
    let weights = evaluated.map_err(|lost| internal(lost.to_string()))?.map_err(|error| {
        let status = &placement.optimizer.status;
        let message = format!(
            "{} {} could not compute evaluation weights of key `{}`: {error}; the weights are as they were",
            status.name, status.version, key.name
        );
        Refusal::new(ErrorCode::OptimizerFailed, message)
    })?;
    Ok(Arc::new(weights))
}
