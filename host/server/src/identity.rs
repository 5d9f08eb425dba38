//! Who a peer is: the common name in its certificate.
//!
//! The certificate has been verified against the authority by the time its name is read, so the name is as trustworthy
//! as the authority's practice. The common name serves because an identity here is not a host: it names a worker's place
//! in a job, or a person.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest identity, in characters: `ub-common-name` of RFC 5280, appendix A.1.
pub const MAX_IDENTITY_CHARACTERS: usize = 64;

/// A peer's name: 1 to [`MAX_IDENTITY_CHARACTERS`] printable characters.
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
        let characters = name.chars().count();
        if characters == 0 || characters > MAX_IDENTITY_CHARACTERS {
            return Err(IdentityError::Length { characters });
        }
        match name.chars().find(|character| character.is_control()) {
            Some(character) => Err(IdentityError::ControlCharacter { code: u32::from(character) }),
            None => Ok(Self(name.into())),
        }
    }

    /// Reads the identity from the peer's own certificate, the first of its chain.
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Result<Self, IdentityError> {
        let own = chain.first().ok_or(IdentityError::NoCertificate)?;
        let (_, certificate) =
            X509Certificate::from_der(own).map_err(|error| IdentityError::Unreadable(error.to_string()))?;
        let names: Vec<_> = certificate.subject().iter_common_name().collect();
        let [name] = names.as_slice() else {
            return Err(IdentityError::CommonNames { count: names.len() });
        };
        Self::new(name.as_str().map_err(|error| IdentityError::Unreadable(error.to_string()))?)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
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

    #[test]
    fn certificates_that_name_nobody_are_refused() {
        assert_eq!(Identity::of(&[]), Err(IdentityError::NoCertificate));
        assert_eq!(identity_of(&[]), Err(IdentityError::CommonNames { count: 0 }));
        assert_eq!(identity_of(&[""]), Err(IdentityError::Length { characters: 0 }));
        assert_eq!(identity_of(&[&"x".repeat(65)]), Err(IdentityError::Length { characters: 65 }));
        assert_eq!(identity_of(&["a\nb"]), Err(IdentityError::ControlCharacter { code: 10 }));
        let nonsense = CertificateDer::from(vec![1, 2, 3]);
        assert!(matches!(Identity::of(&[nonsense]), Err(IdentityError::Unreadable(_))));
    }
}
