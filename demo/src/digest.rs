//! The fingerprint of a set of weights, computed as the server computes it.

use sha2::{Digest, Sha256};

use crate::mlp::{KEYS, Parameters};

/// The `weights_digest` of a server that holds these weights and nothing else, hexadecimal. SHA-256 over a first line, the
/// number of tensors, and, in order of name, each tensor's name, element type, number of extents, extents and values.
/// Numbers are 64 bits, little-endian; a text and the values have their length in bytes before them.
pub fn weights_digest(parameters: &Parameters) -> String {
    let mut tensors: Vec<_> = KEYS.iter().zip(&parameters.0).collect();
    tensors.sort_by_key(|(key, _)| key.name);
    let mut hash = Sha256::new_with_prefix("stepbox weights 1\n");
    let number = |hash: &mut Sha256, number: usize| hash.update((number as u64).to_le_bytes());
    number(&mut hash, tensors.len());
    for (key, values) in tensors {
        for text in [key.name, "f32"] {
            number(&mut hash, text.len());
            hash.update(text);
        }
        number(&mut hash, key.shape.len());
        key.shape.iter().for_each(|extent| hash.update(extent.to_le_bytes()));
        number(&mut hash, size_of_val(values.as_slice()));
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
