//! Tensors: a shape and its values, shared instead of copied.

use std::sync::Arc;

use bytes::Bytes;
use stepbox_wire::{ElementType, TensorType};

use crate::error::ClientError;

/// A tensor of `f32`. Cloning shares the values.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<u64>,
    values: Arc<Vec<f32>>,
}

impl Tensor {
    /// A tensor of this shape (extents, outermost first; empty for a scalar) with these values in row-major order.
    pub fn new(shape: impl Into<Vec<u64>>, values: impl Into<Arc<Vec<f32>>>) -> Result<Self, ClientError> {
        let tensor = Self { shape: shape.into(), values: values.into() };
        let tensor_type = tensor.tensor_type();
        tensor_type.check()?;
        let expected = tensor_type.elements().ok_or(stepbox_wire::FrameError::ShapeOverflows)?;
        if usize::try_from(expected) != Ok(tensor.values.len()) {
            return Err(ClientError::Shape { shape: tensor.shape, expected, found: tensor.values.len() });
        }
        Ok(tensor)
    }

    /// A tensor of as many values as a checked shape has.
    pub(crate) fn of_shape(shape: Vec<u64>, values: Vec<f32>) -> Self {
        Self { shape, values: Arc::new(values) }
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The values in row-major order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, to be written to: how a gradient's memory is used again in the next round. Copies them first where a
    /// clone of this tensor still exists.
    pub fn values_mut(&mut self) -> &mut [f32] {
        Arc::<Vec<f32>>::make_mut(&mut self.values)
    }

    /// The values. Copies them only where a clone of this tensor still exists.
    pub fn into_values(self) -> Vec<f32> {
        Arc::unwrap_or_clone(self.values)
    }

    /// Its memory, for other values; nothing where a clone still needs it. What is left is an empty tensor.
    pub(crate) fn take_room(&mut self) -> Vec<f32> {
        self.shape = vec![0];
        Arc::try_unwrap(std::mem::take(&mut self.values)).unwrap_or_default()
    }

    pub(crate) fn tensor_type(&self) -> TensorType {
        TensorType { element: ElementType::F32, shape: self.shape.clone() }
    }

    /// The values as they go over the wire, without a copy where memory is little-endian.
    pub(crate) fn wire_bytes(&self) -> Bytes {
        /// Keeps the values while a frame with them is being written.
        struct Shared(Arc<Vec<f32>>);
        impl AsRef<[u8]> for Shared {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        if cfg!(target_endian = "little") {
            Bytes::from_owner(Shared(Arc::clone(&self.values)))
        } else {
            self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
        }
    }

    /// A tensor from what the protocol has checked: `tensor` and as many values, their bytes as they came.
    pub(crate) fn from_wire(tensor: TensorType, mut values: Vec<f32>) -> Self {
        if cfg!(target_endian = "big") {
            values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().swap_bytes()));
        }
        Self::of_shape(tensor.shape, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_hold_their_values() {
        let tensor = Tensor::new([2, 3], vec![0.5; 6]).expect("six values");
        assert_eq!((tensor.shape(), tensor.values()), ([2, 3].as_slice(), [0.5; 6].as_slice()));
        Tensor::new([], vec![1.0]).expect("a scalar");
        Tensor::new([0, 4], vec![]).expect("nothing");
        let refused = Tensor::new([2, 3], vec![0.0; 5]).expect_err("a value is missing");
        assert!(matches!(refused, ClientError::Shape { expected: 6, found: 5, .. }), "{refused}");
        Tensor::new([u64::MAX, 2], vec![]).expect_err("a shape beyond all memory");
    }

    #[test]
    fn bytes_are_little_endian_and_not_copied() {
        let mut tensor = Tensor::new([2], vec![1.0, -2.5]).expect("two values");
        let bytes = tensor.wire_bytes();
        assert_eq!(bytes, [1.0_f32.to_le_bytes(), (-2.5_f32).to_le_bytes()].concat());
        assert_eq!(bytes.as_ptr(), tensor.values().as_ptr().cast());

        // Writing to the tensor leaves a frame that is on its way alone, and is in place once it is gone.
        tensor.values_mut()[0] = 7.0;
        assert_eq!(bytes[..4], 1.0_f32.to_le_bytes());
        let place = tensor.values().as_ptr();
        drop(tensor.wire_bytes());
        tensor.values_mut()[1] = 8.0;
        assert_eq!(tensor.values().as_ptr(), place);
        assert_eq!(tensor.into_values(), [7.0, 8.0]);
    }
}
