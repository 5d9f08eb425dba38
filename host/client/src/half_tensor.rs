//! Gradients in half precision, for half the bytes on the way.

use std::sync::Arc;

use bytes::Bytes;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use stepbox_wire::{ElementType, TensorType};

use crate::error::ClientError;
use crate::tensor::Tensor;

/// A gradient of 2 bytes an element, made by [`Tensor::to_bf16`] or [`Tensor::to_f16`] and pushed in a [`Tensor`]'s
/// place: for a key of `f32`, with workers that push `f32` or the other half type. The server widens it, which is exact,
/// and sums in `f32`. Cloning shares the values.
#[derive(Debug, Clone, PartialEq)]
pub struct HalfTensor {
    element: ElementType,
    shape: Vec<u64>,
    bits: Arc<Vec<u16>>,
}

impl Tensor {
    /// The values as bfloat16 (8 bits of precision, the range of `f32`), each rounded to the nearest, ties to even.
    ///
    /// Fails where one is NaN or infinite, or becomes so.
    pub fn to_bf16(&self) -> Result<HalfTensor, ClientError> {
        /// The bits that are all ones in NaN and infinities only.
        const EXPONENT: u16 = 0x7f80;
        self.halved(ElementType::Bf16, EXPONENT, |bits, values| {
            bits.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(values);
        })
    }

    /// The values as IEEE 754 binary16 (11 bits of precision, from 2⁻²⁴ to 65504), each rounded to the nearest, ties to
    /// even. What is below 2⁻²⁵ becomes zero: a loss that is scaled up keeps small gradients, and the server's
    /// `job.gradient_scale` scales them back.
    ///
    /// Fails where one is NaN or infinite, or becomes so: from 65520 on.
    pub fn to_f16(&self) -> Result<HalfTensor, ClientError> {
        /// The bits that are all ones in NaN and infinities only.
        const EXPONENT: u16 = 0x7c00;
        self.halved(ElementType::F16, EXPONENT, |bits, values| {
            bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values);
        })
    }

    fn halved(
        &self,
        element: ElementType,
        exponent: u16,
        round: impl FnOnce(&mut [u16], &[f32]),
    ) -> Result<HalfTensor, ClientError> {
        let mut bits = vec![0; self.values().len()];
        round(&mut bits, self.values());
        match bits.iter().position(|bits| bits & exponent == exponent) {
            None => Ok(HalfTensor { element, shape: self.shape().to_vec(), bits: Arc::new(bits) }),
            Some(index) => Err(ClientError::NotRepresentable { index, value: self.values()[index], element }),
        }
    }
}

impl HalfTensor {
    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The values as the server will see them: what was lost in rounding can be kept and added to the next gradient.
    pub fn to_f32(&self) -> Tensor {
        let mut values = vec![0.0; self.bits.len()];
        match self.element {
            ElementType::Bf16 => self.bits.reinterpret_cast::<bf16>().convert_to_f32_slice(&mut values),
            _ => self.bits.reinterpret_cast::<f16>().convert_to_f32_slice(&mut values),
        }
        Tensor::of_shape(self.shape.clone(), values)
    }

    pub(crate) fn tensor_type(&self) -> TensorType {
        TensorType { element: self.element, shape: self.shape.clone() }
    }

    /// The values as they go over the wire, without a copy where memory is little-endian.
    pub(crate) fn wire_bytes(&self) -> Bytes {
        /// Keeps the values while a frame with them is being written.
        struct Shared(Arc<Vec<u16>>);
        impl AsRef<[u8]> for Shared {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        if cfg!(target_endian = "little") {
            Bytes::from_owner(Shared(Arc::clone(&self.bits)))
        } else {
            self.bits.iter().flat_map(|bits| bits.to_le_bytes()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new([values.len() as u64], values.to_vec()).expect("as many values")
    }

    #[test]
    fn values_are_rounded_to_the_nearest_and_ties_to_even() {
        let ulp = 2.0_f32.powi(-10);
        let halves = tensor(&[1.0 + ulp * 0.5, 1.0 + ulp * 1.5, 1.0 + ulp * 0.51, -65504.0, 65519.0, 3e-8]);
        let rounded = halves.to_f16().expect("all have a binary16");
        let expected = [1.0, 1.0 + ulp * 2.0, 1.0 + ulp, -65504.0, 65504.0, 2.0_f32.powi(-24)];
        assert_eq!(rounded.to_f32().values(), expected);
        assert_eq!(rounded.wire_bytes()[..4], [0x00, 0x3c, 0x02, 0x3c]);

        let ulp = 2.0_f32.powi(-7);
        let halves = tensor(&[1.0 + ulp * 0.5, 1.0 + ulp * 1.5, 1.0 + ulp * 0.51, 1e38, 1e-40]).to_bf16();
        let rounded = halves.expect("all have a bfloat16").to_f32();
        assert_eq!(rounded.values()[..3], [1.0, 1.0 + ulp * 2.0, 1.0 + ulp]);
        assert!((rounded.values()[3] / 1e38 - 1.0).abs() < ulp / 2.0);
        assert!(rounded.values()[4] > 0.0, "denormals stay");
    }

    #[test]
    fn what_becomes_infinite_or_is_no_number_is_named() {
        let refused = tensor(&[1.0, -65520.0]).to_f16().expect_err("beyond binary16");
        assert!(matches!(refused, ClientError::NotRepresentable { index: 1, .. }), "{refused}");
        assert!(refused.to_string().contains("element 1 is -65520, which f16 has no finite number for"), "{refused}");
        tensor(&[65520.0]).to_bf16().expect("within bfloat16");
        for value in [f32::MAX, f32::NAN, f32::INFINITY] {
            tensor(&[value]).to_bf16().expect_err("beyond bfloat16");
            tensor(&[value]).to_f16().expect_err("beyond binary16");
        }
    }
}
