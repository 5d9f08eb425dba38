//! The publisher's side: putting a signature into a component, and taking it out.

use crate::manifest::MANIFEST_SECTION;
use crate::section::{self, Truncated};
use crate::signature::{DELIMITER_SECTION, SIGNATURE_SECTION, SignedFile};
use crate::{MAX_COMPONENT_BYTES, Manifest, ManifestError, SigningKey, TrustError};

/// Signs a component: the result is the same component with a `signature` and a `stepbox:manifest` section in front of
/// its other sections. The same component, name, version and key give the same bytes.
///
/// # Errors
/// [`SignError`]: it is not a component, is signed already ([`strip`] it first), has become too large for a server's
/// default limit, or name or version are not well-formed.
pub fn sign(component: &[u8], name: &str, version: &str, key: &SigningKey) -> Result<Vec<u8>, SignError> {
    let manifest = Manifest::new(name, version, key.public_key().id())?;
    let body = section::component_body(component).map_err(SignError::Component)?;
    for section in section::sections(body) {
        if is_ours(&section.map_err(broken)?) {
            return Err(SignError::Signed);
        }
    }

    let mut content = manifest.section();
    content.extend_from_slice(body);
    let signature_section = SignedFile::sign(&content, key).section();
    let mut signed = Vec::with_capacity(section::HEADER_BYTES + signature_section.len() + content.len());
    signed.extend(section::component_header());
    signed.extend_from_slice(&signature_section);
    signed.extend_from_slice(&content);
    if signed.len() > MAX_COMPONENT_BYTES {
        return Err(SignError::Component(TrustError::TooLarge { bytes: signed.len(), limit: MAX_COMPONENT_BYTES }));
    }
    Ok(signed)
}

/// Takes signature and manifest out of a component, so that it can be signed anew; an unsigned one comes back as it
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
    #[error("the component is signed already: sign the file it was made from, or replace its signature")]
    Signed,
    /// Name or version are not well-formed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}
