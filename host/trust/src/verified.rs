//! What verification leaves behind.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::{Digest, JudgedSignature, KeyId, Manifest, Standing};

/// By what a component's name is allowed, and who had to sign for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// The pattern of the rule that holds for the name; `None` where there is none, and the publisher's own namespaces
    /// decide.
    pub rule: Option<String>,
    /// Where no rule holds: the publisher's namespace that has the name, `*` where all names are its.
    pub namespace: Option<String>,
    /// How many of the signers must have signed.
    pub threshold: usize,
    /// Who may sign, by name.
    pub signers: Vec<String>,
    /// Who of them has.
    pub signed_by: Vec<String>,
}

impl fmt::Display for Approval {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, namespace, threshold, signers, signed_by } = self;
        let signed_by = if signed_by.is_empty() { "nobody".to_owned() } else { signed_by.join(", ") };
        match (rule, namespace) {
            (Some(rule), _) => {
                write!(
                    formatter,
                    "rule `{rule}`, {threshold} of {} ({}); signed by {signed_by}",
                    signers.len(),
                    signers.join(", ")
                )
            }
            (None, Some(namespace)) => write!(formatter, "namespace `{namespace}` of {signed_by}"),
            (None, None) => write!(formatter, "no rule and no namespace; signed by {signed_by}"),
        }
    }
}

/// A component signed by those whom the server trusts. Only [`TrustStore::verify`](crate::TrustStore::verify) makes
/// one, and the bytes in it are the ones that were verified.
#[derive(Clone)]
pub struct VerifiedComponent {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) manifest: Manifest,
    pub(crate) publisher_name: String,
    pub(crate) signatures: Vec<JudgedSignature>,
    /// The keys whose signatures were verified, whether they counted or not. No other counts in a recheck.
    pub(crate) checked: BTreeSet<KeyId>,
    pub(crate) approval: Approval,
    pub(crate) digest: Digest,
    pub(crate) file_digest: Digest,
}

impl VerifiedComponent {
    /// The signed file. It is a component as it stands: a runtime skips signature and manifest as custom sections.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Name, version and publisher.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The key of the publisher who made the manifest.
    pub fn publisher(&self) -> &KeyId {
        &self.manifest.publisher
    }

    /// What the trust store calls the owner of that key.
    pub fn publisher_name(&self) -> &str {
        &self.publisher_name
    }

    /// All whose signatures counted, in the order of their key ids: each with its publisher's name. One publisher may
    /// be among them with several keys.
    pub fn signers(&self) -> impl Iterator<Item = (KeyId, &str)> {
        self.signatures
            .iter()
            .filter(|signature| signature.standing == Standing::Valid)
            .filter_map(|signature| Some((signature.key, signature.publisher.as_deref()?)))
    }

    /// All signatures it has, also those that count for nothing.
    pub fn signatures(&self) -> &[JudgedSignature] {
        &self.signatures
    }

    /// By which rule or namespace it was let in.
    pub fn approval(&self) -> &Approval {
        &self.approval
    }

    /// SHA-256 of the signed content, what all the signatures sign: the component's identity. It stays the same when a
    /// signature is added or taken away.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// SHA-256 of the whole file, signatures and all, as `sha256sum` prints it.
    pub fn file_digest(&self) -> Digest {
        self.file_digest
    }
}

impl fmt::Debug for VerifiedComponent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("VerifiedComponent")
            .field("manifest", &self.manifest)
            .field("publisher_name", &self.publisher_name)
            .field("signatures", &self.signatures)
            .field("approval", &self.approval)
            .field("digest", &self.digest)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}
