//! Copies of `f32`s that are looked at on the way.

use thiserror::Error;

use crate::format::NotFinite;
use crate::instruction_set::InstructionSet;
use crate::kernel::{Copy, Single, Value};

/// Why a copy is not there, or not to be used.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Source and target differ in length. Nothing was written.
    #[error("{source_bytes} bytes cannot be copied to {target_bytes}; both must be as long, and whole `f32`s")]
    Length {
        /// Length of the source, in bytes.
        source_bytes: usize,
        /// Length of the target, in bytes.
        target_bytes: usize,
    },
    /// An element is NaN or infinite. All were copied.
    #[error("{0} among those copied")]
    NotFinite(NotFinite),
}

/// Copies little-endian `f32`s, and finds the first that is NaN or infinite: in one pass, at the speed of a copy.
pub fn copy_finite(source: &[u8], target: &mut [u8]) -> Result<(), CopyError> {
    let (values, rest) = source.as_chunks();
    if !rest.is_empty() {
        return Err(CopyError::Length { source_bytes: source.len(), target_bytes: target.len() });
    }
    copy_with(InstructionSet::best(), values, target)
}

/// As [`copy_finite`], from `f32`s as this machine has them.
pub fn copy_finite_values(source: &[f32], target: &mut [u8]) -> Result<(), CopyError> {
    copy_with(InstructionSet::best(), source, target)
}

pub(crate) fn copy_with<Source: Value>(
    instruction_set: InstructionSet,
    source: &[Source],
    target: &mut [u8],
) -> Result<(), CopyError> {
    if size_of_val(source) != target.len() {
        return Err(CopyError::Length { source_bytes: size_of_val(source), target_bytes: target.len() });
    }
    let (target, _) = target.as_chunks_mut::<{ size_of::<Single>() }>();
    if instruction_set.run(Copy { source, target }) {
        return Ok(());
    }
    let value = |source: &Source| f32::from_bits(source.bits());
    match source.iter().map(value).enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((index, value)) => Err(CopyError::NotFinite(NotFinite { index, value })),
    }
}
