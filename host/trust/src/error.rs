//! Why a component is refused.

use std::fmt;

use crate::{Approval, Digest, JudgedSignature, KeyId, Moment, Revocation, Version};

/// Why a server does not take a component. Nothing was changed by it.
///
/// Who is at fault is the publisher, or whoever stands between publisher and server, unless a variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// More bytes than the limit.
    #[error(
        "the component has {bytes} bytes and the limit is {limit}: build it for release and without debug \
         information (`strip = true`) and sign it again, or ask the operator to raise the limit"
    )]
    TooLarge {
        /// Size of the file in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// No WebAssembly file at all.
    #[error(
        "this is no WebAssembly file: it does not start with `\\0asm` and a version. Send the `.wasm` file that \
         `stepbox sign` wrote"
    )]
    NotWebAssembly,
    /// A WebAssembly file, but not a component.
    #[error("this is WebAssembly but not a component: {reason}. Build an optimizer as a component and sign that")]
    NotAComponent {
        /// What it is instead, or what is wrong with its sections.
        reason: &'static str,
    },
    /// Without a signature.
    #[error("the component is not signed: its first section is not `signature`. Sign it with `stepbox sign`")]
    Unsigned,
    /// With a signature section whose structure is wrong.
    #[error(
        "the component's signature section is malformed: {reason}. The file was damaged or made by another tool; \
         fetch it again, or sign it with `stepbox sign`"
    )]
    MalformedSignature {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Signed with a key that is not in the trust store. May be the operator's to mend.
    #[error(
        "the component is signed with key {key}, which this trust store does not know: if you trust its publisher, \
         add the public key to the trust file"
    )]
    UnknownKey {
        /// The key the signature names.
        key: KeyId,
    },
    /// Signed with a key the operator has revoked.
    #[error(
        "the component is signed with key {key}, which is revoked{revocation}: its publisher must sign it with a new \
         key"
    )]
    RevokedKey {
        /// The revoked key.
        key: KeyId,
        /// Why and since when, where the trust file says so.
        revocation: Revocation,
    },
    /// Signed with a key whose time is over.
    #[error(
        "the component is signed with key {key} ({publisher}), which was valid until {until}: its publisher must sign \
         it with its present key too (`stepbox sign --add`)"
    )]
    ExpiredKey {
        /// The key.
        key: KeyId,
        /// The publisher who owns that key, by the trust store.
        publisher: String,
        /// The first moment in which it was not valid any more.
        until: Moment,
    },
    /// Signed with a key whose time is to come.
    #[error(
        "the component is signed with key {key} ({publisher}), which is valid from {from} on: deploy it then, or \
         have it signed with the publisher's present key too (`stepbox sign --add`)"
    )]
    KeyNotYetValid {
        /// The key.
        key: KeyId,
        /// The publisher who owns that key, by the trust store.
        publisher: String,
        /// The moment it becomes valid.
        from: Moment,
    },
    /// The signature is not this key's signature of this content.
    #[error(
        "the signature of key {key} ({publisher}) does not fit this component: the file was changed after it was \
         signed. Fetch it again from its publisher"
    )]
    BadSignature {
        /// The key the signature names.
        key: KeyId,
        /// The publisher who owns that key, by the trust store.
        publisher: String,
    },
    /// Properly signed, but the operator has revoked this very component.
    #[error("the component with digest {digest} is revoked{revocation}: deploy another version")]
    RevokedDigest {
        /// The digest as it stands in the trust store's list.
        digest: Digest,
        /// Why and since when, where the trust file says so.
        revocation: Revocation,
    },
    /// Properly signed, but its manifest is missing or says nonsense.
    #[error("the component's manifest is malformed: {reason}. Its publisher must sign it again with `stepbox sign`")]
    MalformedManifest {
        /// What is wrong with it.
        reason: String,
    },
    /// Properly signed, but its publisher may not publish under this name. May be the operator's to mend.
    #[error(
        "publisher {publisher} may not publish an optimizer named `{name}`, only {allowed}: choose such a name, or \
         add this one to `namespaces` of the publisher in the trust file"
    )]
    NameNotAllowed {
        /// The optimizer's name.
        name: String,
        /// The publisher, by the trust store.
        publisher: String,
        /// The names the publisher may use, as a list for people to read.
        allowed: String,
    },
    /// Properly signed, but by fewer than have to agree.
    #[error("{0}")]
    ThresholdNotMet(Box<Shortfall>),
    /// Properly signed, but older than the operator allows.
    #[error(
        "`{name}` {offered} is older than {minimum}, the least version that the trust file allows: deploy {minimum} \
         or a newer version"
    )]
    BelowMinimum {
        /// The optimizer's name.
        name: String,
        /// The version offered; boxed, so that results stay small.
        offered: Box<Version>,
        /// The least version allowed.
        minimum: Box<Version>,
    },
    /// Properly signed, but older than what was deployed before.
    #[error(
        "`{name}` {offered} is older than {deployed}, which was deployed before: deploy {deployed} or a newer \
         version. To go back on purpose, publish the old code under a higher version"
    )]
    Downgrade {
        /// The optimizer's name.
        name: String,
        /// The version offered.
        offered: Version,
        /// The highest version deployed before.
        deployed: Version,
    },
    /// Properly signed, with the version of what was deployed before but with other content.
    #[error(
        "`{name}` {version} was deployed before with digest {deployed}, and this file with the same version has \
         digest {offered}: its publisher must give a changed component a higher version"
    )]
    VersionReused {
        /// The optimizer's name.
        name: String,
        /// The version both have; boxed, so that results stay small.
        version: Box<Version>,
        /// Digest of the file offered.
        offered: Digest,
        /// Digest of the file deployed before.
        deployed: Digest,
    },
}

/// Who has signed and who would have to, where too few have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// The optimizer's name.
    pub name: String,
    /// The rule, and who has signed of those that may.
    pub approval: Approval,
    /// Signatures that do not count.
    pub set_aside: Vec<JudgedSignature>,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, approval: Approval { rule, threshold, signers, signed_by, .. }, set_aside } = self;
        let has = if signed_by.is_empty() { "none of them".to_owned() } else { signed_by.join(", ") };
        let missing: Vec<_> = signers.iter().filter(|signer| !signed_by.contains(signer)).cloned().collect();
        write!(
            formatter,
            "`{name}` must be signed by {threshold} of {} (rule `{}`), and {has} has: have it signed by {} \
             (`stepbox sign --add`)",
            signers.join(", "),
            rule.as_deref().unwrap_or_default(),
            missing.join(" or "),
        )?;
        set_aside.iter().try_for_each(|signature| write!(formatter, "; does not count: {signature}"))
    }
}

impl TrustError {
    /// A stable name for logs, metrics and scripts, such as `bad-signature`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::NotWebAssembly => "not-webassembly",
            Self::NotAComponent { .. } => "not-a-component",
            Self::Unsigned => "unsigned",
            Self::MalformedSignature { .. } => "malformed-signature",
            Self::UnknownKey { .. } => "unknown-key",
            Self::RevokedKey { .. } => "revoked-key",
            Self::ExpiredKey { .. } => "expired-key",
            Self::KeyNotYetValid { .. } => "key-not-yet-valid",
            Self::BadSignature { .. } => "bad-signature",
            Self::RevokedDigest { .. } => "revoked-digest",
            Self::MalformedManifest { .. } => "malformed-manifest",
            Self::NameNotAllowed { .. } => "name-not-allowed",
            Self::ThresholdNotMet(_) => "threshold-not-met",
            Self::BelowMinimum { .. } => "below-minimum-version",
            Self::Downgrade { .. } => "downgrade",
            Self::VersionReused { .. } => "version-reused",
        }
    }
}
