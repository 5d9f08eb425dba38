//! What a signature is worth by a policy.

use std::fmt;

use serde::Serialize;

use crate::{KeyId, Moment, Revocation};

/// What a signature is worth by a policy, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "standing", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Standing {
    /// It counts.
    Valid,
    /// It cannot be checked: the policy does not know the key. Counts for nothing and harms nothing, also if the key
    /// becomes known after the component was verified.
    Unknown,
    /// Its key is revoked. Counts for nothing.
    Revoked {
        /// As the policy says.
        #[serde(flatten)]
        revocation: Revocation,
    },
    /// Its key will count only later.
    NotYetValid {
        /// From when on.
        from: Moment,
    },
    /// Its key no longer counts.
    Expired {
        /// The first moment in which it did not.
        until: Moment,
    },
    /// It is not this key's signature of this content. A component that is verified for the first time is refused for
    /// it, whatever else it has.
    Bad,
}

impl fmt::Display for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid => formatter.write_str("valid"),
            Self::Unknown => formatter.write_str("of a key this policy does not know"),
            Self::Revoked { revocation } => write!(formatter, "of a revoked key{revocation}"),
            Self::NotYetValid { from } => write!(formatter, "of a key that is valid from {from} on"),
            Self::Expired { until } => write!(formatter, "of a key that was valid until {until}"),
            Self::Bad => formatter.write_str("does not fit the component"),
        }
    }
}

/// One of a component's signatures, judged by a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JudgedSignature {
    /// The key it names.
    pub key: KeyId,
    /// Whose key that is, where the policy knows it.
    pub publisher: Option<String>,
    /// What it is worth.
    #[serde(flatten)]
    pub standing: Standing,
}

impl fmt::Display for JudgedSignature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.publisher {
            Some(publisher) => write!(formatter, "key {} ({publisher}): {}", self.key, self.standing),
            None => write!(formatter, "key {}: {}", self.key, self.standing),
        }
    }
}
