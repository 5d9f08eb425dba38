//! A round that is a single pass over each slice: most optimizers. Each slice's gradients go to the thread that owns it,
//! for good: their memory becomes that of the new weights, and of what the slots were before.

use std::sync::Arc;

use stepbox_reduce::Format;

use super::update::Update;
use crate::job::Job;
use crate::model::{Key, Placement};
use crate::shard::SliceGradients;
use crate::tensor::{Dense, Weights};

/// The weights that a round can be taken back to, where it can run in this way: the plan is one pass over the gradient, it
/// takes over the key's own cut, and no slice is longer than a block.
pub(super) fn former(job: &Job, key: &Key, placement: &Placement) -> Option<Arc<Weights>> {
    let planned = &placement.planned;
    let block = job.config.sandbox.limits.block_elements;
    let as_the_keys = planned.slices.len() == key.slices.len()
        && planned
            .slices
            .iter()
            .zip(&key.slices)
            .all(|(planned, own)| planned.start == own.start && planned.elements == own.elements);
    let fits = planned.slices.iter().all(|slice| slice.elements <= block);
    (planned.plan.takes_exchange() && as_the_keys && fits).then(|| key.weights()).flatten()
}

/// Gradients on their way to the slices.
pub(super) struct HandedOver {
    formats: Arc<[Format]>,
    /// For each slice one buffer a worker, by rank, and another for new weights where none of these can become that.
    buffers: Vec<Vec<Vec<u8>>>,
    former: Arc<Weights>,
}

impl HandedOver {
    pub fn new(key: &Key, gradients: Vec<Dense>, former: Arc<Weights>) -> Self {
        let formats: Arc<[Format]> = gradients.iter().map(|gradient| gradient.format).collect();
        let mut buffers = vec![Vec::with_capacity(formats.len() + 1); key.slices.len()];
        let extra =
            if formats.contains(&Format::F32) { Vec::new() } else { key.gradient_buffers(Format::F32).detach() };
        for chunks in gradients.into_iter().map(|gradient| gradient.chunks.detach()).chain([extra]) {
            buffers.iter_mut().zip(chunks).for_each(|(slice, chunk)| slice.push(chunk));
        }
        Self { formats, buffers, former }
    }
}

/// Steps all slices and returns their new weights in order. Buffers that are free already are there for the next round.
pub(super) async fn run(update: &Update<'_>, handed_over: HandedOver) -> Result<Vec<Vec<u8>>, String> {
    let HandedOver { formats, mut buffers, former } = handed_over;
    let slices = &update.placement.planned.slices;
    let alone = update.is_alone();
    let mut stepped = Vec::with_capacity(update.shards.len());
    let outcomes = update
        .on_shards(|shard| {
            let owned = slices.iter().zip(&mut buffers).filter(|(slice, _)| slice.shard == shard);
            let gradients = SliceGradients {
                formats: Arc::clone(&formats),
                buffers: owned.map(|(_, buffers)| std::mem::take(buffers)).collect(),
                former: Arc::clone(&former),
            };
            move |shard, step| shard.exchange(step, gradients, alone)
        })
        .await?;
    for (chunks, lent) in outcomes {
        stepped.push(chunks);
        update.key.buffers.keep(lent);
    }
    Ok(update.in_order(stepped))
}
