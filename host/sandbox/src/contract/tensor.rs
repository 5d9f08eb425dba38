//! What an optimizer is told of a tensor.

use sha2::{Digest as _, Sha256};

use crate::contract::bindings::types;

/// A tensor of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorDescription {
    /// The key under which workers push and pull it.
    pub name: String,
    /// Extents, outermost first; row-major. Empty for a scalar.
    pub shape: Vec<u64>,
    /// The group the operator put it in, empty for none.
    pub group: String,
    /// Free labels.
    pub tags: Vec<String>,
    /// A number for this tensor that is the same on every shard and server.
    pub identity: u64,
}

impl TensorDescription {
    /// The number that an optimizer's random stream knows a tensor by: the first eight bytes of the SHA-256 of its name,
    /// so that it is the same in every run and on every server, whatever the order in which tensors are made.
    pub fn identity_of(name: &str) -> u64 {
        Sha256::digest(name.as_bytes()).iter().take(8).rev().fold(0, |identity, byte| identity << 8 | u64::from(*byte))
    }

    pub(crate) fn raw(&self) -> types::Tensor {
        types::Tensor {
            name: self.name.clone(),
            shape: self.shape.clone(),
            group: self.group.clone(),
            tags: self.tags.clone(),
            identity: self.identity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensors_identity_is_its_names_and_pinned() {
        assert_ne!(TensorDescription::identity_of("a"), TensorDescription::identity_of("b"));
        // SHA-256 of the empty text starts e3b0c44298fc1c14.
        let pinned = u64::from_le_bytes([0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14]);
        assert_eq!(TensorDescription::identity_of(""), pinned);
    }
}
