//! Everything a policy has to say about a file, for people who ask why it is taken or not.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde::Serialize;

use crate::signature::SignedFile;
use crate::verify::read_manifest;
use crate::{Approval, Digest, JudgedSignature, KeyId, Manifest, Standing, TrustError, TrustStore};

/// What a policy says about a file, taken or not. Name, version and publisher are the manifest's: true only where
/// [`outcome`](Self::outcome) is good.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The optimizer's name.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The key of the publisher who made the manifest.
    pub publisher: Option<KeyId>,
    /// Whose key that is, where the policy knows it.
    pub publisher_name: Option<String>,
    /// SHA-256 of the signed content, as the signatures say.
    pub digest: Option<Digest>,
    /// SHA-256 of the file.
    pub file_digest: Digest,
    /// The signatures, where the file has such as can be read.
    pub signatures: Vec<JudgedSignature>,
    /// The rule or the namespace for the name, and who has signed of those that must.
    pub approval: Option<Approval>,
    /// Whether it is taken.
    #[serde(skip)]
    pub outcome: Result<(), TrustError>,
}

impl TrustStore {
    /// Says all there is to say about a file. Decides nothing: what is to run goes through
    /// [`verify`](Self::verify).
    pub fn explain(&self, file: &[u8], now: SystemTime) -> Explanation {
        let outcome = self.verify_at(file, now).map(|_| ());
        let signed =
            if matches!(outcome, Err(TrustError::TooLarge { .. })) { None } else { SignedFile::parse(file).ok() };
        let mut signatures = signed.as_ref().map(|signed| self.judge(signed, now.into())).unwrap_or_default();
        // A signature is of a digest. Where the content has another, it is not a signature of this content.
        if signed.as_ref().is_some_and(|signed| Digest::of(signed.content) != signed.hash) {
            for signature in signatures.iter_mut().filter(|signature| signature.standing != Standing::Unknown) {
                signature.standing = Standing::Bad;
            }
        }
        let manifest: Option<Manifest> = signed.as_ref().and_then(|signed| read_manifest(signed).ok());
        let counted: BTreeSet<usize> = signatures
            .iter()
            .filter(|signature| signature.standing == Standing::Valid)
            .filter_map(|signature| self.keys.get(&signature.key))
            .map(|trusted| trusted.publisher)
            .collect();
        let approval = manifest.as_ref().and_then(|manifest| {
            let position = self.keys.get(&manifest.publisher)?.publisher;
            Some(self.approval(&manifest.name, position, &counted))
        });
        let publisher_name =
            manifest.as_ref().and_then(|manifest| self.publisher(manifest.publisher)).map(|own| own.name.clone());
        Explanation {
            name: manifest.as_ref().map(|manifest| manifest.name.clone()),
            version: manifest.as_ref().map(|manifest| manifest.version.to_string()),
            publisher: manifest.map(|manifest| manifest.publisher),
            publisher_name,
            digest: signed.map(|signed| signed.hash),
            file_digest: Digest::of(file),
            signatures,
            approval,
            outcome,
        }
    }
}
