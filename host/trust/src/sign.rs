//! The publisher's side: putting signatures into a component, and taking them out.

use crate::manifest::MANIFEST_SECTION;
use crate::section::{self, Truncated};
use crate::signature::{
    DELIMITER_SECTION, MAX_SIGNATURES, MESSAGE_BYTES, SIGNATURE_SECTION, Signature, SignedFile, message,
};
use crate::verify::read_manifest;
use crate::{Digest, KeyId, MAX_COMPONENT_BYTES, Manifest, ManifestError, PublicKey, SigningKey, TrustError};

/// Signs a component: the result is the same component with a `signature` and a `stepbox:manifest` section in front of
/// its other sections. The same component, name, version and key give the same bytes.
///
/// # Errors
/// [`SignError`]: it is not a component, is signed already ([`strip`] it first), has become too large for a server's
/// default limit, or name or version are not well-formed.
pub fn sign(component: &[u8], name: &str, version: &str, key: &SigningKey) -> Result<Vec<u8>, SignError> {
    SigningRequest::new(component, name, version, &key.public_key())?.sign_with(key)
}

/// Adds a signature to a signed component. Content, manifest and the other signatures stay as they are.
///
/// # Errors
/// [`SignError`] as from [`SigningRequest::add`].
pub fn add_signature(signed: &[u8], key: &SigningKey) -> Result<Vec<u8>, SignError> {
    SigningRequest::add(signed, &key.public_key())?.sign_with(key)
}

/// A component that waits for one signature, made wherever the secret key is: here, in a hardware module, by a service.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    key: PublicKey,
    hash: Digest,
    others: Vec<Signature>,
    content: Vec<u8>,
    manifest: Manifest,
}

impl SigningRequest {
    /// Puts a manifest into a component that has none, for the publisher with this key to sign.
    ///
    /// # Errors
    /// [`SignError`] as from [`sign`].
    pub fn new(component: &[u8], name: &str, version: &str, key: &PublicKey) -> Result<Self, SignError> {
        let manifest = Manifest::new(name, version, key.id())?;
        let body = section::component_body(component).map_err(SignError::Component)?;
        for section in section::sections(body) {
            if is_ours(&section.map_err(broken)?) {
                return Err(SignError::Signed);
            }
        }
        let mut content = manifest.section();
        content.extend_from_slice(body);
        Ok(Self { key: key.clone(), hash: Digest::of(&content), others: Vec::new(), content, manifest })
    }

    /// Takes a signed component, for the owner of this key to sign what the others have signed. The others' signatures
    /// are kept and not checked: that takes a policy. They may stand in an order in which other tools write them.
    ///
    /// # Errors
    /// [`SignError`]: its signatures cannot be read or are not of this content, the key has signed it already, it has
    /// as many signatures as it may.
    pub fn add(signed: &[u8], key: &PublicKey) -> Result<Self, SignError> {
        let file = SignedFile::parse_in_any_order(signed).map_err(SignError::Component)?;
        if Digest::of(file.content) != file.hash {
            return Err(SignError::Changed);
        }
        let manifest = read_manifest(&file).map_err(SignError::Component)?;
        let id = key.id();
        if file.signatures.iter().any(|signature| signature.key == id) {
            return Err(SignError::SignedByThisKey { key: id });
        }
        if file.signatures.len() >= MAX_SIGNATURES {
            return Err(SignError::TooManySignatures);
        }
        let SignedFile { hash, signatures: others, content } = file;
        Ok(Self { key: key.clone(), hash, others, content: content.to_vec(), manifest })
    }

    /// What is to be signed, with plain Ed25519 (RFC 8032; neither Ed25519ph nor Ed25519ctx): the text `wasmsig`, the
    /// bytes 1, 1 and 1, and the SHA-256 of the content. 42 bytes, the same for all signers.
    pub fn message(&self) -> [u8; MESSAGE_BYTES] {
        message(self.hash)
    }

    /// Name, version and publisher of what is signed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the content: the component's identity, whoever else signs it.
    pub fn digest(&self) -> Digest {
        self.hash
    }

    /// The number of signatures that others have made.
    pub fn signatures(&self) -> usize {
        self.others.len()
    }

    /// Signs with a key that is at hand.
    ///
    /// # Errors
    /// As from [`finish`](Self::finish), [`SignError::WrongSignature`] where the request is for another key.
    pub fn sign_with(self, key: &SigningKey) -> Result<Vec<u8>, SignError> {
        let signature = key.sign(&self.message());
        self.finish(&signature)
    }

    /// Puts the signature in, once it has been verified.
    ///
    /// # Errors
    /// [`SignError::WrongSignature`] where it is not this key's signature of the message, and [`SignError`] as from
    /// [`sign`].
    pub fn finish(self, signature: &[u8; 64]) -> Result<Vec<u8>, SignError> {
        let Self { key, hash, others: mut signatures, content, manifest: _ } = self;
        let own = Signature { key: key.id(), bytes: *signature };
        if !own.is_of(hash, &key) {
            return Err(SignError::WrongSignature { key: own.key });
        }
        signatures.push(own);
        signatures.sort_by_key(|signature| signature.key);
        let signed = SignedFile { hash, signatures, content: &content }.file();
        if signed.len() > MAX_COMPONENT_BYTES {
            return Err(SignError::Component(TrustError::TooLarge { bytes: signed.len(), limit: MAX_COMPONENT_BYTES }));
        }
        // Another tool may have written two of one key.
        SignedFile::parse(&signed).map_err(SignError::Component)?;
        Ok(signed)
    }
}

/// Takes signatures and manifest out of a component, so that it can be signed anew; an unsigned one comes back as it
/// is. Of what [`sign`] made it gives back the bytes that were signed.
///
/// # Errors
/// [`SignError::Component`] where it is not a component.
pub fn strip(component: &[u8]) -> Result<Vec<u8>, SignError> {
    let body = section::component_body(component).map_err(SignError::Component)?;
    let mut stripped: Vec<u8> = section::component_header().collect();
    for section in section::sections(body) {
        let section = section.map_err(broken)?;
        if !is_ours(&section) {
            stripped.extend_from_slice(section.bytes);
        }
    }
    Ok(stripped)
}

fn is_ours(section: &section::Section<'_>) -> bool {
    [SIGNATURE_SECTION, DELIMITER_SECTION, MANIFEST_SECTION].iter().any(|name| section.is_named(name))
}

fn broken(Truncated: Truncated) -> SignError {
    SignError::Component(TrustError::NotAComponent { reason: "a section does not end within the file" })
}

/// Why a component is not signed. The publisher's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// It is no component a server would take.
    #[error(transparent)]
    Component(TrustError),
    /// It has a signature or a manifest already.
    #[error("the component is signed already: sign the file it was made from, replace its signatures or add one")]
    Signed,
    /// It has a signature of this very key.
    #[error("key {key} has signed this component already")]
    SignedByThisKey {
        /// The key.
        key: KeyId,
    },
    /// It has as many signatures as it may.
    #[error("the component has {MAX_SIGNATURES} signatures already, as many as it may have")]
    TooManySignatures,
    /// The signatures it has are of other content.
    #[error(
        "the component's signatures are not of its content: it was changed after it was signed. Fetch it again from \
         its publisher"
    )]
    Changed,
    /// What was to be put in is not the key's signature.
    #[error("what came back is no signature of key {key} for this component: does the secret key belong to it?")]
    WrongSignature {
        /// The key.
        key: KeyId,
    },
    /// Name or version are not well-formed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}
