//! One line of the log.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};
use stepbox_trust::{Digest, PublicKey, SigningKey};
use thiserror::Error;

use crate::record::Record;
use crate::timestamp::Timestamp;

/// Longest line that is read. What a record may hold stays below, escaped as JSON escapes it.
pub const MAX_LINE_BYTES: usize = 128 << 10;

/// Highest number of a line: more than can ever be written, and low enough to count on from.
const MAX_SEQUENCE: u64 = 1 << 53;

/// Between what is signed and the signature.
const BEFORE_SIGNATURE: &str = ",\"signature\":\"";

/// After the signature.
const AFTER_SIGNATURE: &str = "\"}";

/// Length of an Ed25519 signature in base64.
const SIGNATURE_CHARACTERS: usize = 88;

/// A line as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its number: 1, 2, 3, … through all files and all runs of the server.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// Which server.
    pub server: String,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
    /// How many more there were of this kind that have no line of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated: Option<Repeated>,
    /// Where a write that was cut off has left something before this line: what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn: Option<Torn>,
    /// SHA-256 of the line before with its line feed; zeros for the first.
    pub previous: Digest,
}

/// Events of one kind that came too fast to have a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    /// How many this line stands for.
    pub times: u64,
    /// When the first of them was.
    pub since: Timestamp,
    /// Different subjects among them, the first ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
}

/// The rest of a line that was not written to its end, as it lies before the line that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    /// Its length without the line feed.
    pub bytes: u64,
    /// Its SHA-256 without the line feed.
    pub sha256: Digest,
}

impl Line {
    /// The line as it stands in the file, line feed included.
    pub(crate) fn sign(&self, key: &SigningKey) -> Vec<u8> {
        #[expect(clippy::expect_used, reason = "maps with text keys, numbers and text are JSON")]
        let mut bytes = serde_json::to_vec(self).expect("maps with text keys, numbers and text are JSON");
        // The closing brace goes to the end.
        bytes.pop();
        let signature = Base64::encode_string(&key.sign(&bytes));
        bytes.extend_from_slice(BEFORE_SIGNATURE.as_bytes());
        bytes.extend_from_slice(signature.as_bytes());
        bytes.extend_from_slice(AFTER_SIGNATURE.as_bytes());
        bytes.push(b'\n');
        bytes
    }

    /// Reads a line without its line feed. The signature is checked by [`is_signed`] alone.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut line: Self = serde_json::from_slice(bytes).ok()?;
        line.record.time = line.time;
        (line.sequence <= MAX_SEQUENCE).then_some(line)
    }
}

/// Whether one of these keys has signed the line, given without its line feed.
pub(crate) fn is_signed(bytes: &[u8], keys: &[PublicKey]) -> bool {
    let signature = || {
        let text = bytes.strip_suffix(AFTER_SIGNATURE.as_bytes())?;
        let (rest, signature) = text.split_at_checked(text.len().checked_sub(SIGNATURE_CHARACTERS)?)?;
        let message = rest.strip_suffix(BEFORE_SIGNATURE.as_bytes())?;
        let mut decoded = [0; 64];
        let length = Base64::decode(signature, &mut decoded).ok()?.len();
        (length == decoded.len()).then_some((message, decoded))
    };
    signature().is_some_and(|(message, signature)| keys.iter().any(|key| key.verifies(message, &signature)))
}

/// The hash that the next line has of this one, given without its line feed.
pub(crate) fn hash(bytes: &[u8]) -> Digest {
    let mut line = Vec::with_capacity(bytes.len() + 1);
    line.extend_from_slice(bytes);
    line.push(b'\n');
    Digest::of(&line)
}

/// What the first line has for a hash of the line before.
pub(crate) fn no_line() -> Digest {
    #[expect(clippy::expect_used, reason = "64 zeros are a digest")]
    "0".repeat(64).parse().expect("64 zeros are a digest")
}

/// A line's number and hash, kept where nobody who can change the log can change it: the log must have this line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The line's number; 0 where there is no line yet.
    pub sequence: u64,
    /// Its SHA-256, line feed included.
    pub hash: Digest,
}

impl fmt::Display for Anchor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for Anchor {
    type Err = AnchorError;

    fn from_str(text: &str) -> Result<Self, AnchorError> {
        let read = || {
            let (sequence, hash) = text.trim().split_once(':')?;
            Some(Self { sequence: sequence.parse().ok()?, hash: hash.parse().ok()? })
        };
        read().ok_or(AnchorError)
    }
}

/// The text is no anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an anchor is a line's number and SHA-256, such as 17:9f86d0…, as `stepbox status` prints it")]
pub struct AnchorError;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Outcome;

    fn line() -> Line {
        let record = Record { subject: ",\"signature\":\"".into(), ..Record::new("deploy", Outcome::Allowed) };
        Line {
            sequence: 7,
            time: record.time,
            server: "ps-1".into(),
            record: record.with("digest", "00"),
            repeated: Some(Repeated { times: 3, since: Timestamp::now(), subjects: vec!["a".into()] }),
            torn: Some(Torn { bytes: 3, sha256: Digest::of(b"abc") }),
            previous: no_line(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_signed_as_a_whole() {
        let (key, other) = (SigningKey::generate().expect("a key"), SigningKey::generate().expect("a key"));
        let line = line();
        let written = line.sign(&key);
        let (bytes, end) = written.split_at(written.len() - 1);
        assert_eq!(end, b"\n");
        assert_eq!(Line::read(bytes), Some(line));
        assert!(is_signed(bytes, &[other.public_key(), key.public_key()]));
        assert!(!is_signed(bytes, &[other.public_key()]) && !is_signed(bytes, &[]));
        for index in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[index] ^= 1;
            assert!(!is_signed(&changed, &[key.public_key()]), "byte {index}");
            assert!(!is_signed(&bytes[..index], &[key.public_key()]), "cut at {index}");
        }
    }

    #[test]
    fn an_anchor_is_a_number_and_a_hash() {
        let anchor = Anchor { sequence: 17, hash: Digest::of(b"x") };
        assert_eq!(anchor.to_string().parse(), Ok(anchor));
        for text in ["", "17", ":", "17:00", "x:y"] {
            assert_eq!(text.parse::<Anchor>(), Err(AnchorError), "{text}");
        }
    }
}
