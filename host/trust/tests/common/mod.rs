//! A publisher, a component and a server's trust in the publisher.
#![allow(dead_code, reason = "not every test binary uses all of it")]

use stepbox_trust::{SigningKey, TrustStore, TrustStoreError, sign};

/// A component with three custom sections, small enough to attack each of its bytes.
pub const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0\
    \x00\x07\x05firsta\x00\x08\x06secondb\x00\x08\x05thirdcc";

/// Length of the header and the signature section, as specified in `docs/signing.md`.
pub const SIGNED_CONTENT: usize = 8 + 132;

pub struct World {
    pub key: SigningKey,
    pub signed: Vec<u8>,
    pub store: TrustStore,
}

impl World {
    pub fn new() -> Self {
        let key = SigningKey::generate().unwrap();
        let signed = sign(COMPONENT, "adamw", "1.2.3", &key).unwrap();
        let store = parse(&publisher("Example", &key)).unwrap();
        Self { key, signed, store }
    }
}

/// Parses a policy after adding the end mark.
pub fn parse(policy: &str) -> Result<TrustStore, TrustStoreError> {
    TrustStore::parse(&format!("{policy}\n[end]\n"))
}

/// The lines of a trust file for one publisher.
pub fn publisher(name: &str, key: &SigningKey) -> String {
    format!("[[publisher]]\nname = '{name}'\npublic_key = '{}'\n", key.public_key())
}

/// The lines of a trust file for a publisher's key, with lines for its validity period.
pub fn key(key: &SigningKey, period: &str) -> String {
    format!("[[publisher.key]]\npublic_key = '{}'\n{period}\n", key.public_key())
}

/// A point in time in the notation of policies.
pub fn at(time: &str) -> std::time::SystemTime {
    time.parse::<stepbox_trust::Moment>().unwrap().into()
}

/// A custom section whose contents have fewer than 128 bytes in total.
pub fn custom_section(name: &str, content: &[u8]) -> Vec<u8> {
    let payload = 1 + name.len() + content.len();
    assert!(payload < 128);
    let mut section = vec![0, payload as u8, name.len() as u8];
    section.extend_from_slice(name.as_bytes());
    section.extend_from_slice(content);
    section
}
