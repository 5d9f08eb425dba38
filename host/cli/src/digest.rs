//! A component's digest as it is written on the command line.

use std::str::FromStr;

/// 64 hexadecimal digits, in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Digest(String);

impl Digest {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digest: stepbox_trust::Digest = text.parse().map_err(|error| format!("{error}"))?;
        Ok(Self(digest.to_string()))
    }
}
