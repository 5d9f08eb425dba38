//! What plans are made of: slots, accumulators, granularities.

use serde::Serialize;

use crate::contract::bindings::types;

/// Element type of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// The upper half of a binary32.
    Bf16,
    /// Unsigned bytes.
    U8,
    /// Unsigned 32-bit integers.
    U32,
    /// Unsigned 64-bit integers.
    U64,
}

impl SlotType {
    /// Bytes of an element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 | Self::U64 => 8,
        }
    }

    /// A number as little-endian bytes of this type, rounded to it. `None` where it does not fit.
    pub(crate) fn encode(self, value: f64) -> Option<Vec<u8>> {
        let whole = |most: f64| (value >= 0.0 && value <= most && value.fract() == 0.0).then_some(value);
        let bytes = match self {
            Self::F32 => (value as f32).to_le_bytes().to_vec(),
            Self::F64 => value.to_le_bytes().to_vec(),
            Self::Bf16 => bf16_bits(value as f32).to_le_bytes().to_vec(),
            Self::U8 => vec![whole(u8::MAX.into())? as u8],
            Self::U32 => (whole(u32::MAX.into())? as u32).to_le_bytes().to_vec(),
            // The largest f64 below 2^64 is exact.
            Self::U64 => (whole(18_446_744_073_709_549_568.0)? as u64).to_le_bytes().to_vec(),
        };
        self.first_not_finite(&bytes).is_none().then_some(bytes)
    }

    /// The first NaN or infinity among elements of this type: its position and value.
    pub(crate) fn first_not_finite(self, bytes: &[u8]) -> Option<(usize, f64)> {
        let value = |position: usize| {
            let element = &bytes[position * self.bytes() as usize..][..self.bytes() as usize];
            match *element {
                [a, b] => f64::from(f32::from_le_bytes([0, 0, a, b])),
                [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
                [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
                _ => 0.0,
            }
        };
        let position = match self {
            Self::F32 | Self::F64 | Self::Bf16 => {
                (0..bytes.len() / self.bytes() as usize).find(|position| !value(*position).is_finite())?
            }
            Self::U8 | Self::U32 | Self::U64 => return None,
        };
        Some((position, value(position)))
    }
}

/// Rounded to the nearest bf16, ties to even. Finite values beyond the largest become infinity.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return 0x7fc0;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// How many elements a slot has; see the contract's `extent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// One for each parameter.
    PerElement,
    /// One for each run of this many parameters.
    PerRun(u32),
    /// One for each row.
    PerRow,
    /// One for each element of a row.
    PerColumn,
    /// One.
    Scalar,
    /// As many as this shape holds.
    Explicit(Vec<u64>),
}

/// What a slot holds before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initial {
    /// Zero.
    Zero,
    /// This number, rounded to the slot's type.
    Constant(f64),
    /// The parameter's value.
    Parameter,
}

/// State that the server keeps for an optimizer between steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slot {
    /// Its name, by which a new version of the optimizer finds it.
    pub name: String,
    /// Element type.
    pub element: SlotType,
    /// How many elements it has.
    pub extent: Extent,
    /// What it holds before the first step.
    pub initial: Initial,
}

/// Who computes an accumulator's contributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contributor {
    /// The optimizer, in this phase.
    Optimizer {
        /// Counted from 0.
        phase: u32,
    },
    /// The server, from the parameters.
    Parameters,
    /// The server, from the reduced gradient.
    Gradients,
}

/// How contributions become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Combination {
    /// Sum.
    Sum,
    /// Sum of squares.
    SumOfSquares,
    /// Largest absolute value.
    AbsoluteMaximum,
    /// Largest value.
    Maximum,
}

/// Over what contributions are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Each row by itself.
    Row,
    /// Each element of a row by itself.
    Column,
    /// The tensor.
    Tensor,
    /// All tensors of the group.
    Group,
    /// All tensors.
    Model,
}

/// A statistic that is finished over a whole scope before a later phase reads it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Accumulator {
    /// Its name.
    pub name: String,
    /// Who contributes.
    pub contributor: Contributor,
    /// How contributions are combined.
    pub combination: Combination,
    /// Over what.
    pub scope: Scope,
    /// The first phase that reads it, counted from 0.
    pub read_from: u32,
}

/// How a tensor may be cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// At any multiple of the contract's chunk.
    Elements,
    /// Into rows, of which only those with a gradient are visited.
    TouchedRows,
    /// Not at all.
    Tensor,
}

impl From<types::ElementType> for SlotType {
    fn from(raw: types::ElementType) -> Self {
        match raw {
            types::ElementType::F32 => Self::F32,
            types::ElementType::F64 => Self::F64,
            types::ElementType::Bf16 => Self::Bf16,
            types::ElementType::U8 => Self::U8,
            types::ElementType::U32 => Self::U32,
            types::ElementType::U64 => Self::U64,
        }
    }
}

impl From<types::Combination> for Combination {
    fn from(raw: types::Combination) -> Self {
        match raw {
            types::Combination::Sum => Self::Sum,
            types::Combination::SumOfSquares => Self::SumOfSquares,
            types::Combination::AbsoluteMaximum => Self::AbsoluteMaximum,
            types::Combination::Maximum => Self::Maximum,
        }
    }
}

impl From<types::Scope> for Scope {
    fn from(raw: types::Scope) -> Self {
        match raw {
            types::Scope::Row => Self::Row,
            types::Scope::Column => Self::Column,
            types::Scope::Tensor => Self::Tensor,
            types::Scope::Group => Self::Group,
            types::Scope::Model => Self::Model,
        }
    }
}

impl From<types::Granularity> for Granularity {
    fn from(raw: types::Granularity) -> Self {
        match raw {
            types::Granularity::Elements => Self::Elements,
            types::Granularity::TouchedRows => Self::TouchedRows,
            types::Granularity::Tensor => Self::Tensor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_in_the_slots_type_or_refused() {
        assert_eq!(SlotType::F32.encode(1.5), Some(1.5_f32.to_le_bytes().to_vec()));
        assert_eq!(SlotType::U8.encode(128.0), Some(vec![128]));
        assert_eq!(SlotType::Bf16.encode(1.0), Some(vec![0x80, 0x3f]));
        for (element, value) in [
            (SlotType::U8, 256.0),
            (SlotType::U8, 0.5),
            (SlotType::U32, -1.0),
            (SlotType::F32, 1e300),
            (SlotType::Bf16, f64::from(f32::MAX)),
            (SlotType::F64, f64::NAN),
        ] {
            assert_eq!(element.encode(value), None, "{element:?} {value}");
        }
    }

    #[test]
    fn values_that_are_not_finite_are_found_in_every_floating_type() {
        for element in [SlotType::F32, SlotType::F64, SlotType::Bf16] {
            let mut bytes = element.encode(1.0).unwrap().repeat(5);
            assert_eq!(element.first_not_finite(&bytes), None);
            let end = 4 * element.bytes() as usize;
            bytes[end - 1] = 0xff;
            bytes[end - 2] = 0xff;
            assert_eq!(element.first_not_finite(&bytes).unwrap().0, 3, "{element:?}");
        }
        assert_eq!(SlotType::U32.first_not_finite(&[0xff; 8]), None);
    }
}
