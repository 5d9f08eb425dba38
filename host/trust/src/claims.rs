//! What a file says about itself, for people to look at before they trust anybody.

use crate::signature::SignedFile;
use crate::verify::read_manifest;
use crate::{Digest, KeyId, Manifest, TrustError};

/// What a signed component says about itself. **Nothing of it is verified**: anybody can write it into a file. Only
/// [`TrustStore::verify`](crate::TrustStore::verify) makes it true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The keys the signatures name, in the order of their ids.
    pub keys: Vec<KeyId>,
    /// What the signatures say the SHA-256 of the content is.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
}

impl Claims {
    /// Reads the claims of a file.
    ///
    /// # Errors
    /// [`TrustError`] as from [`TrustStore::verify`](crate::TrustStore::verify), as far as it concerns structure.
    pub fn read(file: &[u8]) -> Result<Self, TrustError> {
        let signed = SignedFile::parse(file)?;
        let manifest = read_manifest(&signed)?;
        let keys = signed.signatures.iter().map(|signature| signature.key).collect();
        Ok(Self { keys, digest: signed.hash, manifest })
    }
}
