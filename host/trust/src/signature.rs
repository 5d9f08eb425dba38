//! The `signature` section: WebAssembly tool conventions, `Signatures.md`, with one set of hashes, one hash and one
//! signature or several. `docs/signing.md` has the layout.
//!
//! The signatures cannot cover their own section, so this reader accepts exactly one encoding of each set of them:
//! every length in its shortest form, one set of one hash, a key id always there, in the order of key ids, none twice.
//! What remains open to everybody who holds the file is which of the signatures it has: hence a component's identity is
//! the hash of its content, which they all sign, and never that of the file.

use crate::section::{self, Reader, Section, Truncated};
use crate::{Digest, KeyId, PublicKey, TrustError};

/// Name of the custom section that holds the signatures, always the first one.
pub const SIGNATURE_SECTION: &str = "signature";

/// A component has at most this many signatures: more people than have to agree anywhere, and few enough to check in a
/// millisecond.
pub const MAX_SIGNATURES: usize = 16;

/// What is signed has this length: seven bytes of text, three that name version, content and hash function, the hash.
pub const MESSAGE_BYTES: usize = 42;

/// Name of the custom section that divides a component into parts signed one by one: never accepted here.
pub(crate) const DELIMITER_SECTION: &str = "signature_delimiter";

const SPECIFICATION_VERSION: u8 = 0x01;
const CONTENT_TYPE_WEBASSEMBLY: u8 = 0x01;
const HASH_SHA_256: u8 = 0x01;
const ALGORITHM_ED25519: u8 = 0x01;

/// Separates these signatures from all others that a key may make.
const DOMAIN: &[u8; 7] = b"wasmsig";

/// One key's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The key it names.
    pub(crate) key: KeyId,
    /// Ed25519, of [`message`].
    pub(crate) bytes: [u8; 64],
}

impl Signature {
    pub(crate) fn is_of(&self, hash: Digest, key: &PublicKey) -> bool {
        key.verifies(&message(hash), &self.bytes)
    }
}

/// A signed component, taken apart but not verified.
#[derive(Debug, Clone)]
pub(crate) struct SignedFile<'a> {
    /// What the signatures say the SHA-256 of `content` is.
    pub(crate) hash: Digest,
    /// The signatures of `hash`, at least one.
    pub(crate) signatures: Vec<Signature>,
    /// All that follows the signature section.
    pub(crate) content: &'a [u8],
}

impl<'a> SignedFile<'a> {
    /// Takes a file apart; looks at nothing behind the signature section.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, TrustError> {
        let parsed = Self::parse_in_any_order(file)?;
        for (one, next) in parsed.signatures.iter().zip(parsed.signatures.iter().skip(1)) {
            if one.key == next.key {
                return Err(malformed("it has two signatures of one key"));
            }
            if one.key > next.key {
                return Err(malformed("its signatures are not in the order of their key ids"));
            }
        }
        Ok(parsed)
    }

    /// Takes a file apart whose signatures may stand in another order, as other tools write them.
    pub(crate) fn parse_in_any_order(file: &'a [u8]) -> Result<Self, TrustError> {
        let body = section::component_body(file)?;
        if body.first() != Some(&section::CUSTOM) {
            return Err(TrustError::Unsigned);
        }
        let mut reader = Reader::new(body);
        let first = Section::read(&mut reader)
            .map_err(|Truncated| malformed("the first section does not end within the file"))?;
        let Some((SIGNATURE_SECTION, payload)) = first.custom else {
            return Err(TrustError::Unsigned);
        };
        let (hash, signatures) = parse_payload(payload)?;
        let parsed = Self { hash, signatures, content: reader.rest() };
        if parsed.section() != first.bytes {
            return Err(malformed("a length is not in its shortest encoding"));
        }
        Ok(parsed)
    }

    /// The whole signature section.
    pub(crate) fn section(&self) -> Vec<u8> {
        let mut signed_hashes = vec![1];
        signed_hashes.extend_from_slice(self.hash.as_bytes());
        section::write_varuint32(self.signatures.len(), &mut signed_hashes);
        for Signature { key, bytes } in &self.signatures {
            let mut signature = Vec::new();
            section::write_sized(key.as_bytes(), &mut signature);
            signature.push(ALGORITHM_ED25519);
            section::write_sized(bytes, &mut signature);
            section::write_sized(&signature, &mut signed_hashes);
        }

        let mut payload = vec![SPECIFICATION_VERSION, CONTENT_TYPE_WEBASSEMBLY, HASH_SHA_256, 1];
        section::write_sized(&signed_hashes, &mut payload);

        let mut section = Vec::new();
        section::write_custom(SIGNATURE_SECTION, &payload, &mut section);
        section
    }

    /// The whole file.
    pub(crate) fn file(&self) -> Vec<u8> {
        let section = self.section();
        let mut file = Vec::with_capacity(section::HEADER_BYTES + section.len() + self.content.len());
        file.extend(section::component_header());
        file.extend_from_slice(&section);
        file.extend_from_slice(self.content);
        file
    }
}

/// What is signed.
pub(crate) fn message(hash: Digest) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    let (domain, rest) = message.split_at_mut(DOMAIN.len());
    let (kind, content) = rest.split_at_mut(3);
    domain.copy_from_slice(DOMAIN);
    kind.copy_from_slice(&[SPECIFICATION_VERSION, CONTENT_TYPE_WEBASSEMBLY, HASH_SHA_256]);
    content.copy_from_slice(hash.as_bytes());
    message
}

fn malformed(reason: &'static str) -> TrustError {
    TrustError::MalformedSignature { reason }
}

fn parse_payload(payload: &[u8]) -> Result<(Digest, Vec<Signature>), TrustError> {
    let short = |Truncated| malformed("a field runs past its end");
    let mut payload = Reader::new(payload);
    if payload.byte().map_err(short)? != SPECIFICATION_VERSION {
        return Err(malformed("its specification version is not 1"));
    }
    if payload.byte().map_err(short)? != CONTENT_TYPE_WEBASSEMBLY {
        return Err(malformed("its content type is not 1 (WebAssembly)"));
    }
    if payload.byte().map_err(short)? != HASH_SHA_256 {
        return Err(malformed("its hash function is not 1 (SHA-256)"));
    }
    if payload.varuint32().map_err(short)? != 1 {
        return Err(malformed("it has not exactly one set of hashes"));
    }
    let mut signed_hashes = Reader::new(payload.sized().map_err(short)?);
    if !payload.is_empty() {
        return Err(malformed("bytes follow the set of hashes"));
    }

    if signed_hashes.varuint32().map_err(short)? != 1 {
        return Err(malformed("its set has not exactly one hash (partial signatures are not accepted)"));
    }
    let hash = Digest::from_bytes(signed_hashes.array().map_err(short)?);
    let count = signed_hashes.varuint32().map_err(short)? as usize;
    if !(1..=MAX_SIGNATURES).contains(&count) {
        return Err(malformed("its hash has no signature, or more than 16"));
    }
    let signatures = (0..count)
        .map(|_| parse_signature(signed_hashes.sized().map_err(short)?))
        .collect::<Result<Vec<_>, TrustError>>()?;
    if !signed_hashes.is_empty() {
        return Err(malformed("bytes follow the signatures"));
    }
    Ok((hash, signatures))
}

fn parse_signature(bytes: &[u8]) -> Result<Signature, TrustError> {
    let short = |Truncated| malformed("a field runs past its end");
    let mut signature = Reader::new(bytes);
    let Ok(key) = signature.sized().map_err(short)?.try_into() else {
        return Err(malformed("a key id has not 12 bytes"));
    };
    if signature.byte().map_err(short)? != ALGORITHM_ED25519 {
        return Err(malformed("an algorithm is not 1 (Ed25519)"));
    }
    let Ok(bytes) = signature.sized().map_err(short)?.try_into() else {
        return Err(malformed("a signature has not 64 bytes"));
    };
    if !signature.is_empty() {
        return Err(malformed("bytes follow a signature's"));
    }
    Ok(Signature { key: KeyId::from_bytes(key), bytes })
}
