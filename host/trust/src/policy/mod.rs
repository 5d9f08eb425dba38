//! Whom a server trusts: publishers and their keys, rules for names, what is revoked, the oldest versions allowed.
//!
//! [`text`] is the file as it is written, [`read`] turns it into a [`TrustStore`] or says what is wrong with it,
//! [`findings`] says what is right but will not do what its writer wants.

mod error;
mod findings;
mod pattern;
mod publisher;
mod read;
mod revocation;
mod rule;
mod store;
mod text;

pub use error::TrustStoreError;
pub use findings::{EXPIRY_NOTICE, Finding, Severity};
pub use publisher::{MAX_PATTERNS, MAX_PUBLISHER_KEYS, MAX_PUBLISHER_NAME_BYTES};
pub use read::{MAX_MINIMUM_VERSIONS, MAX_PUBLISHERS, MAX_REVOCATIONS, MAX_RULES};
pub use revocation::{MAX_REASON_BYTES, Revocation};
pub use rule::MAX_RULE_SIGNERS;
pub use store::{MAX_COMPONENT_BYTES, MAX_TRUST_FILE_BYTES, TrustStore};

pub(crate) use publisher::{Period, Publisher, TrustedKey};
pub(crate) use rule::Rule;
