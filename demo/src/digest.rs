//! The fingerprint of a set of weights, computed as the server computes it.

use sha2::{Digest, Sha256};

use crate::mlp::{KEYS, Parameters};

/// SHA-256 over the tensors in order of name, each as its name, a zero byte and its values, little-endian; hexadecimal.
/// Equals the `weights_digest` in a server's status where the server holds these weights and nothing else.
pub fn weights_digest(parameters: &Parameters) -> String {
    let mut tensors: Vec<_> = KEYS.iter().map(|key| key.name).zip(&parameters.0).collect();
    tensors.sort_by_key(|(name, _)| *name);
    let mut hash = Sha256::new();
    for (name, values) in tensors {
        hash.update(name);
        hash.update([0]);
        values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_and_its_place_count() {
        let zero = weights_digest(&Parameters::zero());
        assert_eq!(zero.len(), 64);
        for tensor in 0..KEYS.len() {
            let mut other = Parameters::zero();
            other.0[tensor][3] = 1.0;
            assert_ne!(weights_digest(&other), zero);
            let mut moved = Parameters::zero();
            moved.0[tensor][4] = 1.0;
            assert_ne!(weights_digest(&moved), weights_digest(&other));
        }
    }
}
