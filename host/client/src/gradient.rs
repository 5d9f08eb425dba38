//! What a worker pushes: gradients of whole tensors or of some rows, with the loss where it is reported.

use bytes::Bytes;
use stepbox_wire::{ElementType, TensorType};

use crate::error::ClientError;
use crate::half_tensor::HalfTensor;
use crate::tensor::Tensor;

/// Some rows of a tensor, whose first axis counts them. The other rows' gradient is zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    ids: Vec<u64>,
    values: Tensor,
}

impl Rows {
    /// Rows with these ids, in any order; the values of an id that stands there more than once are added up, in order.
    /// The values' first extent is the number of ids, the others are those of the tensor.
    pub fn new(ids: impl Into<Vec<u64>>, values: Tensor) -> Result<Self, ClientError> {
        let rows = Self { ids: ids.into(), values };
        match rows.values.shape() {
            [count, ..] if *count == rows.ids.len() as u64 => Ok(rows),
            shape => Err(ClientError::Rows { ids: rows.ids.len(), shape: shape.to_vec() }),
        }
    }

    /// The rows' ids.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Their values, in the same order.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The rows and the loss they belong to, to be pushed.
    pub fn with_loss(&self, loss: f32) -> WithLoss<'_, Self> {
        WithLoss { gradient: self, loss: Some(loss) }
    }

    pub(crate) fn wire_bytes(&self) -> Bytes {
        let mut bytes = id_bytes(&self.ids);
        bytes.extend_from_slice(&self.values.wire_bytes());
        bytes.into()
    }
}

impl Tensor {
    /// The gradient and the loss it belongs to, to be pushed.
    pub fn with_loss(&self, loss: f32) -> WithLoss<'_, Self> {
        WithLoss { gradient: self, loss: Some(loss) }
    }
}

impl HalfTensor {
    /// The gradient and the loss it belongs to, to be pushed.
    pub fn with_loss(&self, loss: f32) -> WithLoss<'_, Self> {
        WithLoss { gradient: self, loss: Some(loss) }
    }
}

/// A gradient of a whole tensor to be pushed: made from a `&Tensor` or `&HalfTensor`, or from either with its loss. Shares
/// the values.
#[derive(Debug, Clone)]
pub struct WholeGradient {
    pub(crate) tensor: TensorType,
    pub(crate) values: Bytes,
    pub(crate) loss: Option<f32>,
}

impl From<WithLoss<'_, Tensor>> for WholeGradient {
    fn from(WithLoss { gradient, loss }: WithLoss<'_, Tensor>) -> Self {
        Self { tensor: gradient.tensor_type(), values: gradient.wire_bytes(), loss }
    }
}

impl From<WithLoss<'_, HalfTensor>> for WholeGradient {
    fn from(WithLoss { gradient, loss }: WithLoss<'_, HalfTensor>) -> Self {
        Self { tensor: gradient.tensor_type(), values: gradient.wire_bytes(), loss }
    }
}

impl From<&Tensor> for WholeGradient {
    fn from(gradient: &Tensor) -> Self {
        WithLoss::from(gradient).into()
    }
}

impl From<&HalfTensor> for WholeGradient {
    fn from(gradient: &HalfTensor) -> Self {
        WithLoss::from(gradient).into()
    }
}

/// A gradient, a [`Tensor`], [`HalfTensor`] or [`Rows`], and the loss it belongs to, if that is reported. Made from a
/// reference alone, or by `with_loss`.
#[derive(Debug, Clone, Copy)]
pub struct WithLoss<'a, Gradient> {
    pub(crate) gradient: &'a Gradient,
    pub(crate) loss: Option<f32>,
}

impl<'a, Gradient> From<&'a Gradient> for WithLoss<'a, Gradient> {
    fn from(gradient: &'a Gradient) -> Self {
        Self { gradient, loss: None }
    }
}

/// Ids as they go over the wire.
pub(crate) fn id_bytes(ids: &[u64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Whether an answer's type is that of so many rows.
pub(crate) fn is_rows(tensor: &TensorType, rows: usize) -> bool {
    tensor.element == ElementType::F32 && tensor.shape.first() == Some(&(rows as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_as_many_values_as_ids() {
        let values =
            |shape: &[u64]| Tensor::new(shape, vec![1.0; shape.iter().product::<u64>() as usize]).expect("values");
        let rows = Rows::new([7, 3], values(&[2, 1])).expect("two rows");
        let one = 1.0_f32.to_le_bytes();
        assert_eq!(rows.wire_bytes(), [&7_u64.to_le_bytes()[..], &3_u64.to_le_bytes(), &one, &one].concat());
        Rows::new([], values(&[0, 4])).expect("no row");
        for shape in [&[3, 1][..], &[], &[1, 2]] {
            let refused = Rows::new([7, 3], values(shape)).expect_err("not two rows");
            assert!(matches!(refused, ClientError::Rows { ids: 2, .. }), "{refused}");
        }
    }
}
