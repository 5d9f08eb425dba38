//! Who a peer is: the SPIFFE ID in its certificate, or else the common name.
//!
//! The certificate has been verified against the authority by the time its name is read, so the name is as trustworthy
//! as the authority's practice. A host's name does not serve, because an identity here is not a host: it names a worker's
//! place in a job, or a person.
//!
//! Where there is a URI with the scheme `spiffe` among the subject's alternative names, it is the identity and the common
//! name means nothing, whatever it says. By the standard (X.509-SVID, section 2) it is the only URI then, or the
//! certificate names nobody. A common name never passes for a SPIFFE ID.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::spiffe;
use super::spiffe::SpiffeIdError;

/// Longest identity that is no SPIFFE ID, in characters: `ub-common-name` of RFC 5280, appendix A.1.
pub const MAX_IDENTITY_CHARACTERS: usize = 64;

/// Of a name that is refused, what stands in the message.
const SHOWN_CHARACTERS: usize = 128;

/// A peer's name: a SPIFFE ID, or 1 to [`MAX_IDENTITY_CHARACTERS`] printable characters that do not look like one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Arc<str>);

/// Why a peer's certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The handshake ended without one; the verifier does not let this happen.
    #[error("the peer has no certificate")]
    NoCertificate,
    /// It passed the verifier and yet cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// Its subject has none or several common names.
    #[error("the certificate's subject has {count} common names; it must have one, the peer's identity")]
    CommonNames {
        /// How many.
        count: usize,
    },
    /// The common name is no identity.
    #[error("the identity has {characters} characters; 1 to {MAX_IDENTITY_CHARACTERS} are allowed")]
    Length {
        /// How many it has.
        characters: usize,
    },
    /// It starts like a SPIFFE ID.
    #[error("`{}` is no SPIFFE ID: {reason}", id.escape_debug())]
    SpiffeId {
        /// What it is.
        id: String,
        /// Why it is none.
        reason: SpiffeIdError,
    },
    /// Several URIs, one of which has the scheme of SPIFFE IDs.
    #[error("the certificate has {count} URIs; with a SPIFFE ID it must have that one alone")]
    SeveralUris {
        /// How many.
        count: usize,
    },
    /// Its common name looks like what it must not be.
    #[error("the common name starts like a SPIFFE ID; those are identities only as a URI in the certificate")]
    SpiffeCommonName,
    /// Nobody sees what it starts or ends with.
    #[error(
        "the identity `{}` starts or ends with a blank; write it without, such as `{}`",
        name.escape_debug(),
        name.trim()
    )]
    Blank {
        /// The name.
        name: String,
    },
    /// It would spoil a log.
    #[error("the identity has the control character U+{code:04X}; use printable characters only")]
    ControlCharacter {
        /// Which.
        code: u32,
    },
}

impl Identity {
    /// Takes a name that may be an identity.
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        if spiffe::is_meant(name) {
            let wrong = |reason| IdentityError::SpiffeId { id: name.chars().take(SHOWN_CHARACTERS).collect(), reason };
            return spiffe::check(name).map(|()| Self(name.into())).map_err(wrong);
        }
        let characters = name.chars().count();
        if characters == 0 || characters > MAX_IDENTITY_CHARACTERS {
            return Err(IdentityError::Length { characters });
        }
        if let Some(character) = name.chars().find(|character| character.is_control()) {
            return Err(IdentityError::ControlCharacter { code: u32::from(character) });
        }
        if name.trim() != name {
            return Err(IdentityError::Blank { name: name.to_owned() });
        }
        Ok(Self(name.into()))
    }

    /// Reads the identity from the peer's own certificate, the first of its chain.
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Result<Self, IdentityError> {
        let own = chain.first().ok_or(IdentityError::NoCertificate)?;
        let (_, certificate) =
            X509Certificate::from_der(own).map_err(|error| IdentityError::Unreadable(error.to_string()))?;
        if let Some(id) = spiffe_id(&certificate)? {
            return Self::new(id);
        }
        let names: Vec<_> = certificate.subject().iter_common_name().collect();
        let [name] = names.as_slice() else {
            return Err(IdentityError::CommonNames { count: names.len() });
        };
        let name = name.as_str().map_err(|error| IdentityError::Unreadable(error.to_string()))?;
        if spiffe::is_meant(name) {
            return Err(IdentityError::SpiffeCommonName);
        }
        Self::new(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The URI of a certificate that is meant to be a SPIFFE ID, if it has one.
fn spiffe_id<'a>(certificate: &'a X509Certificate<'_>) -> Result<Option<&'a str>, IdentityError> {
    let unreadable = |reason: String| IdentityError::Unreadable(reason);
    let names = certificate.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(unreadable("one of its alternative names".into())),
            _ => {}
        }
    }
    match uris.as_slice() {
        [uri] if spiffe::is_meant(uri) => Ok(Some(uri)),
        several if several.iter().any(|uri| spiffe::is_meant(uri)) => {
            Err(IdentityError::SeveralUris { count: several.len() })
        }
        _ => Ok(None),
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn identity_of(common_names: &[&str]) -> Result<Identity, IdentityError> {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "Example");
        for name in common_names {
            subject.push(DnType::CommonName, *name);
        }
        let mut params = CertificateParams::new(vec!["not-this-name.example".into()]).expect("a name");
        params.distinguished_name = subject;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Identity::of(&[certificate.der().clone()])
    }

    #[test]
    fn the_common_name_is_the_identity() {
        assert_eq!(identity_of(&["worker-0"]).expect("a name").as_str(), "worker-0");
        assert_eq!(identity_of(&["Größe 1"]).expect("any script").as_str(), "Größe 1");
    }

    fn identity_with_uris(uris: &[&str]) -> Result<Identity, IdentityError> {
        let mut params = CertificateParams::new(vec!["a.example".into()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, "worker-0");
        let uri = |uri: &&str| rcgen::SanType::URI((*uri).try_into().expect("ASCII"));
        params.subject_alt_names.extend(uris.iter().map(uri));
        let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        Identity::of(&[certificate.der().clone()])
    }

    #[test]
    fn a_spiffe_id_is_the_identity_and_the_common_name_is_not() {
        let id = "spiffe://example.org/training/worker-7";
        assert_eq!(identity_with_uris(&[id]).expect("an ID").as_str(), id);
        assert_eq!(identity_with_uris(&["https://example.org/"]).expect("another URI").as_str(), "worker-0");
        assert_eq!(identity_with_uris(&[]).expect("none").as_str(), "worker-0");
        for several in [[id, id], [id, "spiffe://example.org/other"], ["https://example.org", id]] {
            assert_eq!(identity_with_uris(&several), Err(IdentityError::SeveralUris { count: 2 }));
        }
        for wrong in ["spiffe://example.org", "SPIFFE://example.org/a", "spiffe://example.org/a/../b"] {
            assert!(matches!(identity_with_uris(&[wrong]), Err(IdentityError::SpiffeId { .. })), "{wrong}");
        }
        for name in [id, "Spiffe:x"] {
            assert_eq!(identity_of(&[name]), Err(IdentityError::SpiffeCommonName), "a common name is no SPIFFE ID");
        }
    }

    #[test]
    fn certificates_that_name_nobody_are_refused() {
        assert_eq!(Identity::of(&[]), Err(IdentityError::NoCertificate));
        assert_eq!(identity_of(&[]), Err(IdentityError::CommonNames { count: 0 }));
        assert_eq!(identity_of(&[""]), Err(IdentityError::Length { characters: 0 }));
        assert_eq!(identity_of(&[&"x".repeat(65)]), Err(IdentityError::Length { characters: 65 }));
        assert_eq!(identity_of(&["a\nb"]), Err(IdentityError::ControlCharacter { code: 10 }));
        assert_eq!(identity_of(&["worker-0 "]), Err(IdentityError::Blank { name: "worker-0 ".into() }));
        let nonsense = CertificateDer::from(vec![1, 2, 3]);
        assert!(matches!(Identity::of(&[nonsense]), Err(IdentityError::Unreadable(_))));
    }
}
