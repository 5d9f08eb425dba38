//! What workers push: whole gradients or some rows of them, and losses.

use std::ops::Range;

use stepbox_reduce::{Format, ReduceError, Reduction};
use tokio::sync::OwnedSemaphorePermit;

use super::buffers::Chunks;

/// A worker's part in a round.
#[derive(Debug, PartialEq)]
pub(crate) struct Contribution {
    pub gradient: Gradient,
    /// The largest magnitude of what was pushed.
    pub largest: f32,
    pub loss: Option<f32>,
}

/// A gradient; every element is finite.
#[derive(Debug, PartialEq)]
pub(crate) enum Gradient {
    /// Of the whole tensor.
    Dense(Dense),
    /// Of some rows; that of the others is zero.
    Rows(Rows),
}

/// A gradient of a whole tensor, in chunks as long as the key's slices: the thread that steps a slice owns its gradients,
/// and has their memory for other things once they are added up.
#[derive(Debug, PartialEq)]
pub(crate) struct Dense {
    pub format: Format,
    pub chunks: Chunks,
}

/// Rows of a tensor, each at most once: never more than the tensor has.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Ascending.
    pub ids: Vec<u64>,
    /// Their elements, in the same order, without gaps.
    pub values: Vec<u8>,
    /// The ids' part of `limits.row_ids`: they are no part of the tensor, and of narrow rows take more than it does.
    pub held: Option<OwnedSemaphorePermit>,
}

impl PartialEq for Rows {
    fn eq(&self, other: &Self) -> bool {
        (&self.ids, &self.values) == (&other.ids, &other.values)
    }
}

/// How a tensor of at least two axes divides into rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowLayout {
    pub rows: u64,
    pub row_bytes: usize,
}

impl Gradient {
    /// The rows it is of; `None` for all.
    pub fn row_ids(&self) -> Option<&[u64]> {
        match self {
            Self::Dense(_) => None,
            Self::Rows(rows) => Some(&rows.ids),
        }
    }
}

impl Dense {
    /// The elements as `f32`s without gaps. Copies the tensor, unless that is what it is already.
    pub fn into_values(self) -> Vec<u8> {
        let Self { format, chunks } = self;
        let mut chunks = chunks.detach();
        if format == Format::F32 && chunks.len() == 1 {
            return chunks.swap_remove(0);
        }
        let whole = Self { format, chunks: chunks.into() };
        let mut values = vec![0.0; whole.elements()];
        // Every element was looked at when it came.
        let copied = aggregate(Reduction::sum(), &[whole], 0..values.len(), &mut values);
        debug_assert_eq!(copied, Ok(()));
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn elements(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum::<usize>() / self.format.element_bytes()
    }
}

/// Reduces some elements of whole gradients, which are in the same chunks.
pub(crate) fn aggregate(
    reduction: Reduction,
    gradients: &[Dense],
    elements: Range<usize>,
    out: &mut [f32],
) -> Result<(), ReduceError> {
    let Some(first) = gradients.first() else { return Err(ReduceError::NoGradients) };
    let (mut start, mut out) = (0, out);
    for (index, chunk) in first.chunks.iter().enumerate() {
        let length = chunk.len() / first.format.element_bytes();
        let here = elements.start.max(start)..elements.end.min(start + length);
        if !here.is_empty() {
            let parts: Vec<_> = gradients
                .iter()
                .map(|gradient| {
                    let width = gradient.format.element_bytes();
                    let bytes = (here.start - start) * width..(here.end - start) * width;
                    stepbox_reduce::Gradient::new(gradient.format, &gradient.chunks[index][bytes])
                })
                .collect();
            let target = out.split_off_mut(..here.len()).unwrap_or_default();
            reduction.reduce_into(&parts, target)?;
        }
        start += length;
    }
    Ok(())
}

impl Rows {
    /// Rows as they were pushed, in order of id; those with the same id added up in the order in which they came. `Err`
    /// names a row whose sum is not finite.
    pub fn combined(ids: Vec<u64>, values: Vec<u8>, row_bytes: usize) -> Result<Self, u64> {
        if ids.is_sorted_by(|before, after| before < after) {
            return Ok(Self { ids, values, held: None });
        }
        let row = |index: usize| &values[index * row_bytes..(index + 1) * row_bytes];
        let mut order: Vec<usize> = (0..ids.len()).collect();
        // Stable: those with the same id stay in their order.
        order.sort_by_key(|index| ids[*index]);
        let mut combined =
            Self { ids: Vec::with_capacity(ids.len()), values: Vec::with_capacity(values.len()), held: None };
        for index in order {
            if combined.ids.last() == Some(&ids[index]) {
                let start = combined.values.len() - row_bytes;
                add(&mut combined.values[start..], row(index));
            } else {
                combined.ids.push(ids[index]);
                combined.values.extend_from_slice(row(index));
            }
        }
        // Room for repetitions is not kept until the round ends.
        combined.ids.shrink_to_fit();
        combined.values.shrink_to_fit();
        match stepbox_reduce::first_not_finite(&combined.values) {
            None => Ok(combined),
            Some(found) => Err(combined.ids[found.index * size_of::<f32>() / row_bytes]),
        }
    }

    /// Writes the rows into a tensor of zeros.
    fn scatter(&self, tensor: &mut Dense, row_bytes: usize) {
        // Rows ascend, so that each chunk is come to once. Its first byte's position in the tensor goes with it.
        let (mut chunk, mut start) = (0, 0);
        for (position, id) in self.ids.iter().enumerate() {
            // An id is below the number of rows, and the tensor is in memory.
            let mut at = *id as usize * row_bytes;
            let mut values = &self.values[position * row_bytes..][..row_bytes];
            while !values.is_empty() {
                let end = start + tensor.chunks[chunk].len();
                if at >= end {
                    (chunk, start) = (chunk + 1, end);
                    continue;
                }
                let (here, rest) = values.split_at(values.len().min(end - at));
                tensor.chunks[chunk][at - start..][..here.len()].copy_from_slice(here);
                (at, values) = (at + here.len(), rest);
            }
        }
    }
}

fn add(sum: &mut [u8], row: &[u8]) {
    let number = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
    for (sum, value) in sum.as_chunks_mut::<4>().0.iter_mut().zip(row.as_chunks::<4>().0) {
        *sum = (number(sum) + number(value)).to_le_bytes();
    }
}

/// The mean of the losses, in the order of ranks, over the workers that reported one.
pub(crate) fn mean_loss(contributions: &[Contribution]) -> Option<f32> {
    let losses = || contributions.iter().filter_map(|contribution| contribution.loss);
    let sum: f64 = losses().map(f64::from).sum();
    // The mean of finite f32 is one too.
    losses().next().map(|_| (sum / losses().count() as f64) as f32)
}

/// All gradients as whole tensors, by rank. Costs a tensor's size for each worker that pushed rows.
pub(crate) async fn whole(
    contributions: Vec<Contribution>,
    row_bytes: usize,
    buffers: impl Fn() -> Chunks + Send + 'static,
) -> Result<Vec<Dense>, String> {
    let is_whole = |contribution: &Contribution| matches!(contribution.gradient, Gradient::Dense(_));
    if contributions.iter().all(is_whole) {
        let dense = |contribution: Contribution| match contribution.gradient {
            Gradient::Dense(dense) => Some(dense),
            Gradient::Rows(_) => None,
        };
        return Ok(contributions.into_iter().filter_map(dense).collect());
    }
    let expand = move || {
        let expanded = contributions.into_iter().map(|contribution| match contribution.gradient {
            Gradient::Dense(dense) => dense,
            Gradient::Rows(rows) => {
                let mut tensor = Dense { format: Format::F32, chunks: buffers() };
                tensor.chunks.iter_mut().for_each(|chunk| chunk.fill(0));
                rows.scatter(&mut tensor, row_bytes);
                tensor
            }
        });
        expanded.collect()
    };
    tokio::task::spawn_blocking(expand).await.map_err(|panic| format!("rows could not be expanded: {panic}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn repeated_rows_are_added_up_in_the_order_in_which_they_came() {
        let pushed = bytes(&[1e8, 1.0, 5.0, 6.0, 1.0, 2.0, -1e8, 3.0]);
        let rows = Rows::combined(vec![7, 2, 7, 7], pushed, 8).expect("finite");
        // In f32, 1e8 + 1 is 1e8: another order would give 1.
        assert_eq!(rows, Rows { ids: vec![2, 7], values: bytes(&[5.0, 6.0, 0.0, 6.0]), held: None });
        let sorted = Rows::combined(vec![0, 3], bytes(&[1.0, 2.0]), 4).expect("finite");
        assert_eq!(sorted, Rows { ids: vec![0, 3], values: bytes(&[1.0, 2.0]), held: None });
        assert_eq!(Rows::combined(Vec::new(), Vec::new(), 8), Ok(Rows::default()));
    }

    #[test]
    fn parts_are_aggregated_across_chunks_and_formats() {
        let values: Vec<f32> = (0..10).map(|index| index as f32).collect();
        let whole = Dense { format: Format::F32, chunks: vec![bytes(&values[..6]), bytes(&values[6..])].into() };
        let half =
            |values: &[f32]| values.iter().flat_map(|value| value.to_bits().to_le_bytes()[2..].to_vec()).collect();
        let halves = Dense { format: Format::Bf16, chunks: vec![half(&values[..6]), half(&values[6..])].into() };
        let both = [whole, halves];
        for start in 0..10 {
            for end in start..=10 {
                let mut out = vec![f32::NAN; end - start];
                assert_eq!(aggregate(Reduction::mean(), &both, start..end, &mut out), Ok(()));
                assert_eq!(out, values[start..end]);
            }
        }
        let [whole, halves] = both;
        assert_eq!((whole.into_values(), halves.into_values()), (bytes(&values), bytes(&values)));
    }

    #[test]
    fn a_sum_that_is_not_finite_is_named_by_its_row() {
        let pushed = bytes(&[0.0, f32::MAX, 1.0, 1.0, 0.0, f32::MAX]);
        assert_eq!(Rows::combined(vec![9, 4, 9], pushed, 8), Err(9));
    }

    #[test]
    fn the_loss_is_the_mean_over_those_who_reported_one() {
        let with = |loss| Contribution { gradient: Gradient::Rows(Rows::default()), largest: 0.0, loss };
        assert_eq!(mean_loss(&[with(None), with(None)]), None);
        assert_eq!(mean_loss(&[with(Some(1.0)), with(None), with(Some(2.0))]), Some(1.5));
        assert_eq!(mean_loss(&[with(Some(f32::MAX)), with(Some(f32::MAX))]), Some(f32::MAX));
    }

    proptest! {
        #[test]
        fn rows_are_the_tensor_that_adding_them_one_by_one_gives(
            pushed in prop::collection::vec((0_u64..8, [-1e6_f32..1e6, -1.0..1.0]), 0..40),
        ) {
            let mut expected = [0.0_f32; 16];
            for (id, values) in &pushed {
                for (sum, value) in expected[*id as usize * 2..].iter_mut().zip(values) {
                    *sum += value;
                }
            }
            let ids = pushed.iter().map(|(id, _)| *id).collect();
            let values = pushed.iter().flat_map(|(_, values)| bytes(values)).collect();
            let rows = Rows::combined(ids, values, 8).expect("finite");
            prop_assert!(rows.ids.is_sorted_by(|before, after| before < after));
            for cut in [0, 5, 16] {
                let chunks = vec![vec![0; cut * 4], vec![0; (16 - cut) * 4]];
                let mut tensor = Dense { format: Format::F32, chunks: chunks.into() };
                rows.scatter(&mut tensor, 8);
                let mut sums = [0.0; 16];
                prop_assert_eq!(aggregate(Reduction::sum(), &[tensor], 0..16, &mut sums), Ok(()));
                prop_assert_eq!(sums, expected);
            }
        }
    }
}
