//! What workers push: whole gradients or some rows of them, and losses.

use std::ops::Range;
use std::sync::Arc;

use stepbox_reduce::Format;

use crate::key::Key;

/// A worker's part in a round.
#[derive(Debug, PartialEq)]
pub(crate) struct Contribution {
    pub gradient: Gradient,
    pub loss: Option<f32>,
}

/// A gradient; every element is finite.
#[derive(Debug, PartialEq)]
pub(crate) enum Gradient {
    /// Of the whole tensor.
    Dense(Whole),
    /// Of some rows; that of the others is zero.
    Rows(Rows),
}

/// A whole tensor's gradient as it came: halves stay halves until they are summed.
#[derive(Debug, PartialEq)]
pub(crate) struct Whole {
    pub format: Format,
    pub bytes: Vec<u8>,
}

/// Rows of a tensor, each at most once: never more than the tensor has.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Rows {
    /// Ascending.
    pub ids: Vec<u64>,
    /// Their elements, `f32`s, in the same order, without gaps.
    pub values: Vec<u8>,
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

    /// A run of its elements, in the order in which it has them.
    pub fn part(&self, elements: Range<usize>) -> stepbox_reduce::Gradient<'_> {
        match self {
            Self::Dense(whole) => whole.part(elements),
            Self::Rows(Rows { values, .. }) => {
                let width = Format::F32.element_bytes();
                stepbox_reduce::Gradient::f32(&values[elements.start * width..elements.end * width])
            }
        }
    }

    /// The buffer of a whole tensor, to be used again.
    pub fn into_buffer(self) -> Option<Vec<u8>> {
        match self {
            Self::Dense(whole) => Some(whole.bytes),
            Self::Rows(_) => None,
        }
    }
}

impl Whole {
    /// A run of its elements.
    pub fn part(&self, elements: Range<usize>) -> stepbox_reduce::Gradient<'_> {
        let width = self.format.element_bytes();
        stepbox_reduce::Gradient::new(self.format, &self.bytes[elements.start * width..elements.end * width])
    }
}

impl Rows {
    /// Rows as they were pushed, in order of id; those with the same id added up in the order in which they came. `Err`
    /// names a row whose sum is not finite.
    pub fn combined(ids: Vec<u64>, values: Vec<u8>, row_bytes: usize) -> Result<Self, u64> {
        if ids.is_sorted_by(|before, after| before < after) {
            return Ok(Self { ids, values });
        }
        let row = |index: usize| &values[index * row_bytes..(index + 1) * row_bytes];
        let mut order: Vec<usize> = (0..ids.len()).collect();
        // Stable: those with the same id stay in their order.
        order.sort_by_key(|index| ids[*index]);
        let mut combined = Self { ids: Vec::with_capacity(ids.len()), values: Vec::with_capacity(values.len()) };
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
    fn scatter(&self, tensor: &mut [u8], row_bytes: usize) {
        for (position, id) in self.ids.iter().enumerate() {
            // An id is below the number of rows, and the tensor is in memory.
            let start = *id as usize * row_bytes;
            tensor[start..start + row_bytes].copy_from_slice(&self.values[position * row_bytes..][..row_bytes]);
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
pub(crate) async fn whole(key: &Arc<Key>, contributions: Vec<Contribution>) -> Result<Vec<Whole>, String> {
    let is_whole = |contribution: &Contribution| matches!(contribution.gradient, Gradient::Dense(_));
    let all_whole = contributions.iter().all(is_whole);
    let key = Arc::clone(key);
    let expand = move || {
        let row_bytes = key.row_layout().map_or(0, |layout| layout.row_bytes);
        let expanded = contributions.into_iter().map(|contribution| match contribution.gradient {
            Gradient::Dense(whole) => whole,
            Gradient::Rows(rows) => {
                let mut bytes = key.gradient_buffer(Format::F32);
                bytes.fill(0);
                rows.scatter(&mut bytes, row_bytes);
                Whole { format: Format::F32, bytes }
            }
        });
        expanded.collect()
    };
    if all_whole {
        return Ok(expand());
    }
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
        assert_eq!(rows, Rows { ids: vec![2, 7], values: bytes(&[5.0, 6.0, 0.0, 6.0]) });
        let sorted = Rows::combined(vec![0, 3], bytes(&[1.0, 2.0]), 4).expect("finite");
        assert_eq!(sorted, Rows { ids: vec![0, 3], values: bytes(&[1.0, 2.0]) });
        assert_eq!(Rows::combined(Vec::new(), Vec::new(), 8), Ok(Rows::default()));
    }

    #[test]
    fn a_sum_that_is_not_finite_is_named_by_its_row() {
        let pushed = bytes(&[0.0, f32::MAX, 1.0, 1.0, 0.0, f32::MAX]);
        assert_eq!(Rows::combined(vec![9, 4, 9], pushed, 8), Err(9));
    }

    #[test]
    fn the_loss_is_the_mean_over_those_who_reported_one() {
        let with =
            |loss| Contribution { gradient: Gradient::Dense(Whole { format: Format::F32, bytes: Vec::new() }), loss };
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
            let mut tensor = vec![0; 64];
            rows.scatter(&mut tensor, 8);
            prop_assert_eq!(tensor, bytes(&expected));
        }
    }
}
