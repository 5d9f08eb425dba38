//! What a file says about itself, for people to look at before they trust anybody.

use crate::signature::SignedFile;
use crate::store::read_manifest;
use crate::{KeyId, Manifest, TrustError};

/// What a signed component says about itself. **Nothing of it is verified**: anybody can write it into a file. Only
/// [`TrustStore::verify`](crate::TrustStore::verify) makes it true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The key the signature names.
    pub key: KeyId,
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
        Ok(Self { key: signed.key, manifest })
    }
}
