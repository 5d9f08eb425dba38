//! The checks that turn bytes into a [`VerifiedComponent`], and the ones a running component must go on to pass.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::Shortfall;
use crate::manifest::MANIFEST_SECTION;
use crate::section::{self, Truncated};
use crate::signature::{DELIMITER_SECTION, SIGNATURE_SECTION, SignedFile};
use crate::{
    Approval, Digest, JudgedSignature, KeyId, Manifest, Moment, Standing, TrustError, TrustStore, VerifiedComponent,
};

impl TrustStore {
    /// Verifies a signed component, as of now.
    ///
    /// The checks come in this order: size, structure of the signature section, signatures and their keys, content,
    /// digest revoked, manifest, publisher, rule or namespace for the name, minimum version. Nothing behind the
    /// signature section is looked at before a signature that counts has been verified.
    ///
    /// # Errors
    /// [`TrustError`], by the first check that fails.
    pub fn verify(&self, file: impl Into<Arc<[u8]>>) -> Result<VerifiedComponent, TrustError> {
        self.verify_at(file, SystemTime::now())
    }

    /// Verifies a signed component as of another time. What a key's period is held against is this time and not the
    /// one at which a signature was made, which nobody could vouch for.
    ///
    /// # Errors
    /// As from [`verify`](Self::verify).
    pub fn verify_at(&self, file: impl Into<Arc<[u8]>>, now: SystemTime) -> Result<VerifiedComponent, TrustError> {
        self.verify_file(file.into(), now, WrongSignatures::Refuse)
    }

    /// Verifies a file that was verified before and stored since, as of now.
    ///
    /// As [`verify`](Self::verify), but a signature that does not fit counts for nothing and does not refuse the file.
    /// When the file was verified first, its key was not listed, and anybody can add an entry under the id of such a
    /// key: listing the key must not make the file unusable.
    ///
    /// # Errors
    /// As from [`verify`](Self::verify).
    pub fn verify_stored(&self, file: impl Into<Arc<[u8]>>) -> Result<VerifiedComponent, TrustError> {
        self.verify_file(file.into(), SystemTime::now(), WrongSignatures::SetAside)
    }

    fn verify_file(
        &self,
        bytes: Arc<[u8]>,
        now: SystemTime,
        wrong: WrongSignatures,
    ) -> Result<VerifiedComponent, TrustError> {
        if bytes.len() > self.max_component_bytes {
            return Err(TrustError::TooLarge { bytes: bytes.len(), limit: self.max_component_bytes });
        }
        let signed = SignedFile::parse(&bytes)?;
        let signatures = self.judge(&signed, now.into());
        if wrong == WrongSignatures::Refuse {
            refuse_wrong(&signatures)?;
        }
        let key = some_valid(&signatures)?;
        if Digest::of(signed.content) != signed.hash {
            return Err(self.bad_signature(key));
        }
        let (digest, file_digest) = (signed.hash, Digest::of(&bytes));
        self.refuse_revoked([digest, file_digest])?;
        let manifest = read_manifest(&signed)?;
        let approval = self.approve(&manifest, &signatures)?;
        let publisher_name = self.publisher(manifest.publisher).map(|publisher| publisher.name.clone());
        let publisher_name = publisher_name.unwrap_or_default();
        let checked = signatures
            .iter()
            .filter(|signature| signature.standing != Standing::Bad && self.keys.contains_key(&signature.key))
            .map(|signature| signature.key)
            .collect();
        Ok(VerifiedComponent { bytes, manifest, publisher_name, signatures, checked, approval, digest, file_digest })
    }

    /// Checks once more what a server has verified before, against what is trusted now: keys and their periods,
    /// signatures, revoked digests, rules and thresholds, minimum versions. The content is not hashed again. Cheap
    /// enough (about 50 µs for each signature) to do for everything that runs, whenever the trust file
    /// changes and from time to time.
    ///
    /// Only signatures that were verified before count. One whose key was not listed then is ignored, even if its key
    /// is listed now: it may be garbage that anybody added to the file. For such a signature to count, verify the file
    /// again.
    ///
    /// # Errors
    /// [`TrustError`] as from [`verify_at`](Self::verify_at).
    pub fn recheck(&self, component: &VerifiedComponent, now: SystemTime) -> Result<(), TrustError> {
        let mut signed = SignedFile::parse(&component.bytes)?;
        signed.signatures.retain(|signature| component.checked.contains(&signature.key));
        let signatures = self.judge(&signed, now.into());
        refuse_wrong(&signatures)?;
        some_valid(&signatures)?;
        self.refuse_revoked([component.digest, component.file_digest])?;
        self.approve(&component.manifest, &signatures).map(|_| ())
    }

    /// What each signature is worth.
    pub(crate) fn judge(&self, signed: &SignedFile<'_>, now: Moment) -> Vec<JudgedSignature> {
        let standing = |signature: &crate::signature::Signature| {
            let trusted = self.keys.get(&signature.key);
            // Whose key is known is checked in any case: a wrong signature means that the file was tampered with.
            if trusted.is_some_and(|trusted| !signature.is_of(signed.hash, &trusted.key)) {
                return Standing::Bad;
            }
            match (self.revoked_keys.get(&signature.key), trusted) {
                (Some(revocation), _) => Standing::Revoked { revocation: revocation.clone() },
                (None, Some(trusted)) => trusted.period.standing(now),
                (None, None) => Standing::Unknown,
            }
        };
        signed
            .signatures
            .iter()
            .map(|signature| JudgedSignature {
                key: signature.key,
                publisher: self.publisher(signature.key).map(|publisher| publisher.name.clone()),
                standing: standing(signature),
            })
            .collect()
    }

    fn refuse_revoked(&self, digests: [Digest; 2]) -> Result<(), TrustError> {
        let revoked = digests.into_iter().find_map(|digest| Some((digest, self.revoked_digests.get(&digest)?)));
        match revoked {
            Some((digest, revocation)) => Err(TrustError::RevokedDigest { digest, revocation: revocation.clone() }),
            None => Ok(()),
        }
    }

    /// Whether those whose signatures count may publish under this name and version.
    fn approve(&self, manifest: &Manifest, signatures: &[JudgedSignature]) -> Result<Approval, TrustError> {
        let valid = |signature: &&JudgedSignature| signature.standing == Standing::Valid;
        let counted: BTreeSet<usize> = signatures
            .iter()
            .filter(valid)
            .filter_map(|signature| self.keys.get(&signature.key))
            .map(|trusted| trusted.publisher)
            .collect();
        // Who made the manifest must stand by it, with that key or, after a rotation, with another.
        let made_by = self.keys.get(&manifest.publisher).map(|trusted| trusted.publisher);
        let Some((publisher, position)) = made_by
            .filter(|position| counted.contains(position))
            .and_then(|position| Some((self.publishers.get(position)?, position)))
        else {
            let own = signatures.iter().find(|signature| signature.key == manifest.publisher);
            return Err(own.map_or(TrustError::UnknownKey { key: manifest.publisher }, refusal));
        };

        let approval = self.approval(&manifest.name, position, &counted);
        if approval.rule.is_some() {
            if approval.signed_by.len() < approval.threshold {
                return Err(TrustError::ThresholdNotMet(Box::new(Shortfall {
                    name: manifest.name.clone(),
                    approval,
                    set_aside: signatures.iter().filter(|signature| !valid(signature)).cloned().collect(),
                })));
            }
        } else if approval.namespace.is_none() {
            return Err(TrustError::NameNotAllowed {
                name: manifest.name.clone(),
                publisher: publisher.name.clone(),
                allowed: publisher.allowed(),
            });
        }
        match self.minimum_versions.get(&manifest.name) {
            Some(minimum) if manifest.version.cmp_precedence(minimum) == Ordering::Less => {
                Err(TrustError::BelowMinimum {
                    name: manifest.name.clone(),
                    offered: Box::new(manifest.version.clone()),
                    minimum: Box::new(minimum.clone()),
                })
            }
            _ => Ok(approval),
        }
    }

    /// What holds for a name that this publisher has chosen, and who of those that must sign is among the counted.
    pub(crate) fn approval(&self, name: &str, publisher: usize, counted: &BTreeSet<usize>) -> Approval {
        match self.rule(name) {
            Some((pattern, rule)) => Approval {
                rule: Some(pattern.to_owned()),
                namespace: None,
                threshold: rule.threshold,
                signers: self.names(&rule.signers),
                signed_by: self.names(rule.signers.intersection(counted)),
            },
            None => {
                let own = self.publishers.get(publisher);
                let namespace = own.and_then(|own| own.namespace(name));
                Approval {
                    rule: None,
                    namespace: namespace.map(|pattern| pattern.map_or("*", |pattern| pattern.as_str()).to_owned()),
                    threshold: 1,
                    signers: self.names([&publisher]),
                    signed_by: self.names(counted.get(&publisher)),
                }
            }
        }
    }

    fn bad_signature(&self, key: KeyId) -> TrustError {
        let publisher = self.publisher(key).map(|publisher| publisher.name.clone());
        TrustError::BadSignature { key, publisher: publisher.unwrap_or_default() }
    }
}

/// What a signature does that is not its key's signature of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WrongSignatures {
    /// It refuses the file, whatever else the file has: somebody changed it.
    Refuse,
    /// It counts for nothing.
    SetAside,
}

fn refuse_wrong(signatures: &[JudgedSignature]) -> Result<(), TrustError> {
    match signatures.iter().find(|signature| signature.standing == Standing::Bad) {
        Some(wrong) => Err(refusal(wrong)),
        None => Ok(()),
    }
}

/// A key whose signature counts. Where none counts, the error is about the one that came closest.
fn some_valid(signatures: &[JudgedSignature]) -> Result<KeyId, TrustError> {
    let closeness = |signature: &&JudgedSignature| match signature.standing {
        Standing::Valid => 4,
        Standing::Revoked { .. } => 3,
        Standing::Expired { .. } => 2,
        Standing::NotYetValid { .. } => 1,
        Standing::Unknown | Standing::Bad => 0,
    };
    match signatures.iter().max_by_key(closeness) {
        Some(signature) if signature.standing == Standing::Valid => Ok(signature.key),
        Some(signature) => Err(refusal(signature)),
        None => Err(TrustError::Unsigned),
    }
}

/// Why a signature does not count.
fn refusal(signature: &JudgedSignature) -> TrustError {
    let JudgedSignature { key, publisher, standing } = signature;
    let key = *key;
    let publisher = publisher.clone().unwrap_or_default();
    match standing {
        Standing::Revoked { revocation } => TrustError::RevokedKey { key, revocation: revocation.clone() },
        Standing::Expired { until } => TrustError::ExpiredKey { key, publisher, until: *until },
        Standing::NotYetValid { from } => TrustError::KeyNotYetValid { key, publisher, from: *from },
        Standing::Bad => TrustError::BadSignature { key, publisher },
        Standing::Unknown | Standing::Valid => TrustError::UnknownKey { key },
    }
}

/// Finds and reads the manifest: the first section behind the signatures, and the only one of its name.
pub(crate) fn read_manifest(signed: &SignedFile<'_>) -> Result<Manifest, TrustError> {
    let malformed = |reason: String| TrustError::MalformedManifest { reason };
    let mut sections = section::sections(signed.content);
    let content = match sections.next() {
        Some(Ok(section::Section { custom: Some((MANIFEST_SECTION, content)), .. })) => content,
        _ => {
            return Err(malformed(format!("no `{MANIFEST_SECTION}` section stands behind the signature")));
        }
    };
    for section in sections {
        let section = section
            .map_err(|Truncated| TrustError::NotAComponent { reason: "a section does not end within the file" })?;
        if section.is_named(MANIFEST_SECTION) {
            return Err(malformed("there is a second one".to_owned()));
        }
        if section.is_named(SIGNATURE_SECTION) || section.is_named(DELIMITER_SECTION) {
            return Err(TrustError::MalformedSignature {
                reason: "there is a second `signature` section, or a `signature_delimiter`",
            });
        }
    }
    let manifest = Manifest::decode(content).map_err(|error| malformed(error.to_string()))?;
    if !signed.signatures.iter().any(|signature| signature.key == manifest.publisher) {
        return Err(malformed(format!(
            "it names key {} as the publisher's, and no signature is of that key",
            manifest.publisher
        )));
    }
    Ok(manifest)
}
