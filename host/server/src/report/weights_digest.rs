//! One digest of all weights of a job, by which two servers, or a server and a worker, compare models.

use sha2::{Digest, Sha256};
use stepbox_wire::TensorType;

use crate::tensor::Weights;

/// What is hashed first: no other text of ours begins so, and another layout gets another number.
const DOMAIN: &[u8] = b"stepbox weights 1\n";

/// The digest as it is made. Each length comes before what it measures, so that no two models are the same bytes: a
/// tensor's end cannot pass for another tensor's name.
pub(crate) struct WeightsDigest(Sha256);

impl WeightsDigest {
    /// Of so many keys, which follow in order of name.
    pub fn of(keys: usize) -> Self {
        let mut hash = Sha256::new_with_prefix(DOMAIN);
        hash.update((keys as u64).to_le_bytes());
        Self(hash)
    }

    /// Adds the next key.
    pub fn add(&mut self, name: &str, tensor: &TensorType, weights: &Weights) {
        self.text(name);
        self.text(tensor.element.name());
        self.number(tensor.shape.len() as u64);
        tensor.shape.iter().for_each(|extent| self.number(*extent));
        self.number(weights.chunks().map(|chunk| chunk.len() as u64).sum());
        weights.chunks().for_each(|chunk| self.0.update(chunk));
    }

    /// The digest, hexadecimal.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use stepbox_wire::ElementType;

    use super::*;

    /// Name, element type, shape, and values in chunks.
    type Tensor<'a> = (&'a str, ElementType, &'a [u64], &'a [&'a [u8]]);

    fn digest(keys: &[Tensor<'_>]) -> String {
        let mut digest = WeightsDigest::of(keys.len());
        for (name, element, shape, chunks) in keys {
            let tensor = TensorType { element: *element, shape: shape.to_vec() };
            digest.add(name, &tensor, &Weights::new(0, chunks.iter().map(|chunk| chunk.to_vec()).collect()));
        }
        digest.finish()
    }

    #[test]
    fn no_two_models_share_a_digest_and_how_one_is_cut_does_not_matter() {
        use ElementType::{F32, I32};
        let model = digest(&[("a", F32, &[2, 2], &[&[1; 8], &[2; 8]])]);
        assert_eq!(model, digest(&[("a", F32, &[2, 2], &[&[1; 8], &[2; 4], &[2; 4]])]));
        // The same bytes under another shape or type.
        assert_ne!(model, digest(&[("a", F32, &[4], &[&[1; 8], &[2; 8]])]));
        assert_ne!(model, digest(&[("a", F32, &[1, 4], &[&[1; 8], &[2; 8]])]));
        assert_ne!(model, digest(&[("a", I32, &[2, 2], &[&[1; 8], &[2; 8]])]));
        assert_ne!(model, digest(&[("b", F32, &[2, 2], &[&[1; 8], &[2; 8]])]));
        // One tensor whose values spell the rest of a model, name, zero byte and all, and the model they spell.
        let one = digest(&[("a", F32, &[3], &[&[1, 1, 1, 1, b'b', b'b', b'b', 0, 2, 2, 2, 2]])]);
        let two = digest(&[("a", F32, &[1], &[&[1; 4]]), ("bbb", F32, &[1], &[&[2; 4]])]);
        assert_ne!(one, two);
        assert_ne!(digest(&[]), digest(&[("", F32, &[0], &[])]));
    }
}
