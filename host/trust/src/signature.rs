//! The `signature` section: WebAssembly tool conventions, `Signatures.md`, with one set of hashes, one hash and one
//! signature. `docs/signing.md` has the layout.
//!
//! The signature cannot cover its own section, so this reader accepts exactly one encoding of it: every length in its
//! shortest form, every count one, a key id always there. A stranger can thus not make a second file out of a signed
//! one that verifies too, which would have another digest and slip through revocation by digest.

use crate::section::{self, Reader, Section, Truncated};
use crate::{Digest, KeyId, SigningKey, TrustError, TrustStore};

/// Name of the custom section that holds the signature, always the first one.
pub const SIGNATURE_SECTION: &str = "signature";

/// Name of the custom section that divides a component into parts signed one by one: never accepted here.
pub(crate) const DELIMITER_SECTION: &str = "signature_delimiter";

const SPECIFICATION_VERSION: u8 = 0x01;
const CONTENT_TYPE_WEBASSEMBLY: u8 = 0x01;
const HASH_SHA_256: u8 = 0x01;
const ALGORITHM_ED25519: u8 = 0x01;

/// Separates these signatures from all others that a key may make.
const DOMAIN: &[u8; 7] = b"wasmsig";

/// A signed component, taken apart but not verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignedFile<'a> {
    /// The key the signature names.
    pub(crate) key: KeyId,
    /// What the signature says the SHA-256 of `content` is.
    pub(crate) hash: Digest,
    /// The signature of `hash`.
    pub(crate) signature: [u8; 64],
    /// All that follows the signature section.
    pub(crate) content: &'a [u8],
}

impl<'a> SignedFile<'a> {
    /// Takes a file apart; looks at nothing behind the signature section.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, TrustError> {
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
        let (key, hash, signature) = parse_payload(payload)?;
        let parsed = Self { key, hash, signature, content: reader.rest() };
        if parsed.section() != first.bytes {
            return Err(malformed("a length is not in its shortest encoding"));
        }
        Ok(parsed)
    }

    /// Signs content.
    pub(crate) fn sign(content: &'a [u8], key: &SigningKey) -> Self {
        let hash = Digest::of(content);
        Self { key: key.public_key().id(), hash, signature: key.sign(&message(hash)), content }
    }

    /// What was signed.
    pub(crate) fn message(&self) -> Vec<u8> {
        message(self.hash)
    }

    /// The whole signature section.
    pub(crate) fn section(&self) -> Vec<u8> {
        let mut signature = Vec::new();
        section::write_sized(self.key.as_bytes(), &mut signature);
        signature.push(ALGORITHM_ED25519);
        section::write_sized(&self.signature, &mut signature);

        let mut signed_hashes = vec![1];
        signed_hashes.extend_from_slice(self.hash.as_bytes());
        signed_hashes.push(1);
        section::write_sized(&signature, &mut signed_hashes);

        let mut payload = vec![SPECIFICATION_VERSION, CONTENT_TYPE_WEBASSEMBLY, HASH_SHA_256, 1];
        section::write_sized(&signed_hashes, &mut payload);

        let mut section = Vec::new();
        section::write_custom(SIGNATURE_SECTION, &payload, &mut section);
        section
    }
}

fn message(hash: Digest) -> Vec<u8> {
    let mut message = DOMAIN.to_vec();
    message.extend_from_slice(&[SPECIFICATION_VERSION, CONTENT_TYPE_WEBASSEMBLY, HASH_SHA_256]);
    message.extend_from_slice(hash.as_bytes());
    message
}

fn malformed(reason: &'static str) -> TrustError {
    TrustError::MalformedSignature { reason }
}

fn parse_payload(payload: &[u8]) -> Result<(KeyId, Digest, [u8; 64]), TrustError> {
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
    if signed_hashes.varuint32().map_err(short)? != 1 {
        return Err(malformed("its hash has not exactly one signature"));
    }
    let mut signature = Reader::new(signed_hashes.sized().map_err(short)?);
    if !signed_hashes.is_empty() {
        return Err(malformed("bytes follow the signature"));
    }

    let Ok(key) = signature.sized().map_err(short)?.try_into() else {
        return Err(malformed("its key id has not 12 bytes"));
    };
    if signature.byte().map_err(short)? != ALGORITHM_ED25519 {
        return Err(malformed("its algorithm is not 1 (Ed25519)"));
    }
    let Ok(bytes) = signature.sized().map_err(short)?.try_into() else {
        return Err(malformed("its signature has not 64 bytes"));
    };
    if !signature.is_empty() {
        return Err(malformed("bytes follow the signature's"));
    }
    Ok((KeyId::from_bytes(key), hash, bytes))
}

/// Entry point for fuzzing, beside the reader it attacks: any bytes may be given, nothing may panic, and whatever is
/// taken apart must be put together again to the same bytes.
#[doc(hidden)]
pub fn fuzz_signature(bytes: &[u8]) {
    if let Ok(parsed) = SignedFile::parse(bytes) {
        let again: Vec<u8> =
            section::component_header().chain(parsed.section()).chain(parsed.content.iter().copied()).collect();
        assert_eq!(again, bytes, "two encodings of one signature");
    }
    let _ = crate::Claims::read(bytes);
    let _ = crate::strip(bytes);
    assert!(TrustStore::default().verify(bytes).is_err(), "an empty store trusts nobody");
}
