//! What can be wrong with a trust file.

use std::io;
use std::path::PathBuf;

use crate::KeyId;

/// What can be wrong with a trust file. The operator's to mend. A server takes nothing by a file that is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustStoreError {
    /// The file cannot be read.
    #[error("cannot read trust file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file can be read, but is not right.
    #[error("trust file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<TrustStoreError>,
    },
    /// No TOML, or not of this form.
    #[error("not a trust file: {0}")]
    Toml(toml::de::Error),
    /// Of a form this version does not know.
    #[error("its `format` is {format} and this version reads format 1: bring this program up to date")]
    Format {
        /// The form's number.
        format: i64,
    },
    /// The mark at the end is missing.
    #[error(
        "it does not end with the line `[end]`, so it may have been cut off, and the beginning of a trust file can \
         trust more than the whole. If it is complete, add `[end]` as its last line"
    )]
    Incomplete,
    /// Nobody is trusted.
    #[error(
        "it lists no publisher, so no component could be deployed and running ones would be paused: add \
         `[[publisher]]`. To trust nobody, keep the publishers and list their keys in `revoked_keys`"
    )]
    NoPublishers,
    /// A publisher's name is empty, too long or has control characters.
    #[error("a publisher's name has 1 to 128 characters, none of them control characters: `{name}`")]
    PublisherName {
        /// The name, escaped and cut.
        name: String,
    },
    /// Two publishers have the same name.
    #[error("publisher {publisher} is listed twice: give one entry all keys, as `[[publisher.key]]`")]
    DuplicatePublisher {
        /// The publisher.
        publisher: String,
    },
    /// A publisher has no key.
    #[error("publisher {publisher} has no key: give it a `public_key`, or `[[publisher.key]]` with one")]
    NoKey {
        /// The publisher.
        publisher: String,
    },
    /// A public key is none.
    #[error(
        "`public_key` of publisher {publisher} is no Ed25519 public key: give the base64 line of the `.pub` file \
         that `stepbox key new` wrote"
    )]
    Key {
        /// The publisher.
        publisher: String,
    },
    /// Two entries have the same key.
    #[error("key {key} of publisher {publisher} is listed twice: keep one of the two")]
    Duplicate {
        /// The key.
        key: KeyId,
        /// The publisher listed first.
        publisher: String,
    },
    /// A date is none.
    #[error("`{field}` of {of}: {reason}")]
    Date {
        /// The field.
        field: &'static str,
        /// Whose.
        of: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key is never valid.
    #[error("key {key} of publisher {publisher} is never valid: its `valid_until` does not come after `valid_from`")]
    NeverValid {
        /// The key.
        key: KeyId,
        /// Its publisher.
        publisher: String,
    },
    /// A pattern that no name fits, or that has its `*` elsewhere than at the end.
    #[error(
        "`{pattern}` of {of} is no pattern for names: lower-case letters, digits and dashes, `/` behind a namespace, \
         a `*` only at the end"
    )]
    Pattern {
        /// The pattern, escaped and cut.
        pattern: String,
        /// Whose: a publisher or a rule.
        of: String,
    },
    /// Two rules have the same pattern, so that nobody could say which holds.
    #[error("two rules have the pattern `{pattern}`: keep one of the two")]
    DuplicateRule {
        /// The pattern.
        pattern: String,
    },
    /// A rule without names.
    #[error("rule {number} has no `names`, so it never holds: give it some or remove it")]
    NoNames {
        /// Its number, from one.
        number: usize,
    },
    /// A rule names a signer that is no publisher.
    #[error("rule `{rule}` names the signer `{signer}`, which is the name of no publisher here")]
    UnknownSigner {
        /// The rule's first pattern.
        rule: String,
        /// The signer, escaped and cut.
        signer: String,
    },
    /// A rule names a signer twice.
    #[error("rule `{rule}` names the signer {signer} twice, who counts once")]
    DuplicateSigner {
        /// The rule's first pattern.
        rule: String,
        /// The signer.
        signer: String,
    },
    /// A threshold that asks for nobody, or for more than there are.
    #[error(
        "rule `{rule}` has threshold {threshold} and {signers} signers: the threshold lies between 1 and {signers}"
    )]
    Threshold {
        /// The rule's first pattern.
        rule: String,
        /// The threshold.
        threshold: usize,
        /// The number of signers.
        signers: usize,
    },
    /// A minimum for something that is no optimizer's name.
    #[error("`{name}` in `minimum_versions` is no optimizer's name, so it would never hold")]
    MinimumName {
        /// The name, escaped and cut.
        name: String,
    },
    /// A revocation's reason is too long or has control characters.
    #[error("the `reason` of {of} has more than 256 characters, or control characters")]
    Reason {
        /// Of which revocation.
        of: String,
    },
    /// More of something than the limit.
    #[error("more than {limit} {what}: see the limits in the documentation")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}
