//! Rounds and pulls that concern some rows of a key only.

use std::ops::Range;

use stepbox_reduce::ReduceError;
use stepbox_sandbox::SandboxError;

use super::executor::{Bound, Shard};
use super::merged_rows::MergedRows;
use super::step::{NewChunk, Step, StepFailure, new_chunks};
use crate::names::{OptimizerId, TensorId};

/// Rows that were read.
#[derive(Debug)]
pub(crate) struct FoundRows {
    /// Where among the wanted ones each is.
    pub positions: Vec<usize>,
    /// Their bytes, in the same order, without gaps.
    pub bytes: Vec<u8>,
}

impl Shard {
    /// Runs a round on those of the touched rows that this shard owns.
    ///
    /// [`Shard::settle`] must follow.
    pub fn step_rows(&mut self, step: &Step, rows: &MergedRows) -> Result<(), StepFailure> {
        let (pool, slices) = self.placement(step.optimizer, step.key);
        for bound in slices {
            let held = rows_of(bound, rows.columns());
            let touched = rows.within(held.clone());
            let here: Vec<u32> = touched.clone().map(|position| (rows.row(position) - held.start) as u32).collect();
            if here.is_empty() {
                continue;
            }
            let mut reduced = Ok(());
            let mut gradient = |elements: Range<usize>, out: &mut [f32]| {
                let mut cursor = rows.from(touched.start + elements.start / rows.columns());
                for out in out.chunks_exact_mut(rows.columns()) {
                    // What is not finite is the sandbox's to see, which reads it next.
                    match step.reduction.reduce_into(cursor.parts(), out) {
                        Ok(()) | Err(ReduceError::NotFinite(_)) => {}
                        Err(error) => reduced = Err(error),
                    }
                }
            };
            pool.step_rows(bound.id, &here, &step.context, &mut gradient)?;
            reduced?;
        }
        Ok(())
    }

    /// Those of the wanted rows, `(row, position)` in order of row, that this shard owns. An error where the optimizer has
    /// changed one outside its steps.
    pub fn read_rows(
        &mut self,
        optimizer: OptimizerId,
        key: TensorId,
        columns: usize,
        wanted: &[(u64, usize)],
    ) -> Result<FoundRows, SandboxError> {
        let (pool, slices) = self.placement_at_rest(optimizer, key);
        let before = |row: u64| wanted.partition_point(|(wanted, _)| *wanted < row);
        let within = |held: &Range<u64>| &wanted[before(held.start)..before(held.end)];
        let count = slices.iter().map(|bound| within(&rows_of(bound, columns)).len()).sum::<usize>();
        let row_bytes = columns * size_of::<f32>();
        let mut found =
            FoundRows { positions: Vec::with_capacity(count), bytes: Vec::with_capacity(count * row_bytes) };
        for bound in slices {
            let held = rows_of(bound, columns);
            for (row, position) in within(&held) {
                if let Some(bytes) = pool.row(bound.id, (row - held.start) as u32)? {
                    found.positions.push(*position);
                    found.bytes.extend_from_slice(bytes);
                }
            }
        }
        Ok(found)
    }

    /// Gives up the rows that the optimizer has changed outside its steps, of which nobody has another copy: see
    /// [`InstancePool::start_rows_afresh`](stepbox_sandbox::InstancePool::start_rows_afresh). Returns the tensor's rows.
    pub fn start_rows_afresh(&mut self, optimizer: OptimizerId, key: TensorId) -> Result<Vec<u64>, SandboxError> {
        let (pool, slices) = self.placement_at_rest(optimizer, key);
        let mut afresh = Vec::new();
        for bound in slices {
            let first = bound.slice.start / pool.columns(bound.id).max(1);
            afresh.extend(pool.start_rows_afresh(bound.id)?.into_iter().map(|row| first + u64::from(row)));
        }
        Ok(afresh)
    }

    /// All of a key's weights here.
    pub fn read_all(&mut self, optimizer: OptimizerId, key: TensorId) -> Result<Vec<NewChunk>, StepFailure> {
        let (pool, slices) = self.placement_at_rest(optimizer, key);
        new_chunks(pool, slices, Vec::new())
    }
}

/// The rows that a slice holds. It begins and ends with a row.
fn rows_of(bound: &Bound, columns: usize) -> Range<u64> {
    let columns = columns.max(1) as u64;
    bound.slice.start / columns..(bound.slice.start + u64::from(bound.slice.elements)) / columns
}
