//! Protected records: their header, their number, their keys. No I/O.

use std::ops::Range;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, PeerMisbehaved, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

use crate::keys::Traffic;

/// Content type, version and length.
const HEADER_BYTES: usize = 5;

/// Most bytes of content in a record.
pub(crate) const MAX_CONTENT_BYTES: usize = 1 << 14;

/// Most bytes of a record: its content, and at most 256 bytes of content type, padding and tag.
pub(crate) const MAX_RECORD_BYTES: usize = HEADER_BYTES + MAX_CONTENT_BYTES + 256;

/// Records before the cipher suite's limit at which keys are updated: what goes out meanwhile has room.
const MARGIN: u64 = 1 << 10;

/// Protects what is sent.
pub(crate) struct Sealer {
    suite: &'static Tls13CipherSuite,
    encrypter: Box<dyn MessageEncrypter>,
    next: u64,
}

/// Opens what is received.
pub(crate) struct Opener {
    suite: &'static Tls13CipherSuite,
    decrypter: Box<dyn MessageDecrypter>,
    next: u64,
}

impl Sealer {
    pub fn new(suite: SupportedCipherSuite, (next, secrets): Traffic) -> Result<Self, Error> {
        let suite = tls13(suite)?;
        let (key, iv) = parts(secrets)?;
        Ok(Self { suite, encrypter: suite.aead_alg.encrypter(key, iv), next })
    }

    /// A record with this content, of at most [`MAX_CONTENT_BYTES`].
    pub fn seal(&mut self, content_type: ContentType, content: OutboundChunks<'_>) -> Result<Vec<u8>, Error> {
        // As RFC 8446, section 5.1 has it for whoever looks from outside.
        let version = ProtocolVersion::TLSv1_2;
        let message = OutboundPlainMessage { typ: content_type, version, payload: content };
        let record = self.encrypter.encrypt(message, self.next)?;
        self.next += 1;
        Ok(record.encode())
    }

    /// Whether its keys have protected about as much as they may.
    pub fn is_worn(&self) -> bool {
        self.next >= self.suite.common.confidentiality_limit.saturating_sub(MARGIN)
    }

    /// Goes on with other keys.
    pub fn rekey(&mut self, (next, secrets): Traffic) -> Result<(), Error> {
        let (key, iv) = parts(secrets)?;
        self.encrypter = self.suite.aead_alg.encrypter(key, iv);
        self.next = next;
        Ok(())
    }
}

impl Opener {
    pub fn new(suite: SupportedCipherSuite, (next, secrets): Traffic) -> Result<Self, Error> {
        let suite = tls13(suite)?;
        let (key, iv) = parts(secrets)?;
        Ok(Self { suite, decrypter: suite.aead_alg.decrypter(key, iv), next })
    }

    /// Decrypts a record of this length in place. Returns what it contains, and where that is.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Error> {
        let message = InboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            &mut record[HEADER_BYTES..],
        );
        let content = self.decrypter.decrypt(message, self.next)?;
        self.next += 1;
        // It is decrypted in place: the content starts where what was encrypted did.
        Ok((content.typ, HEADER_BYTES..HEADER_BYTES + content.payload.len()))
    }

    /// Goes on with other keys.
    pub fn rekey(&mut self, (next, secrets): Traffic) -> Result<(), Error> {
        let (key, iv) = parts(secrets)?;
        self.decrypter = self.suite.aead_alg.decrypter(key, iv);
        self.next = next;
        Ok(())
    }
}

/// The length of the record that these bytes start with; `None` where its header is not all there.
pub(crate) fn record_length(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let (Some(&[content_type, major]), Some(length)) = (bytes.first_chunk(), announced_length(bytes)) else {
        return Ok(None);
    };
    // After the handshake nothing is sent in the clear, and what is encrypted looks like application data.
    if ContentType::from(content_type) != ContentType::ApplicationData {
        return Err(InvalidMessage::InvalidContentType.into());
    }
    if major != 3 {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    if length > MAX_RECORD_BYTES { Err(Error::PeerSentOversizedRecord) } else { Ok(Some(length)) }
}

/// The length, as its header has it, of the record that these bytes start with: in the clear or not, valid or not.
pub(crate) fn announced_length(bytes: &[u8]) -> Option<usize> {
    let &[_content_type, _major, _minor, high, low] = bytes.first_chunk::<HEADER_BYTES>()?;
    Some(HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])))
}

fn tls13(suite: SupportedCipherSuite) -> Result<&'static Tls13CipherSuite, Error> {
    suite.tls13().ok_or_else(|| PeerMisbehaved::SelectedUnusableCipherSuiteForVersion.into())
}

fn parts(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher suite that is not known here".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_length_is_known_from_its_header_and_bounded() {
        assert_eq!(record_length(&[23, 3, 3, 0]), Ok(None));
        assert_eq!(record_length(&[23, 3, 3, 1, 2, 9, 9]), Ok(Some(5 + 258)));
        let longest = u16::try_from(MAX_RECORD_BYTES - 5).expect("it fits").to_be_bytes();
        assert_eq!(record_length(&[23, 3, 3, longest[0], longest[1]]), Ok(Some(MAX_RECORD_BYTES)));
        assert_eq!(record_length(&[23, 3, 3, longest[0], longest[1] + 1]), Err(Error::PeerSentOversizedRecord));
    }

    #[test]
    fn nothing_in_the_clear_is_taken_for_a_record() {
        // An alert, a change of cipher, a handshake message, text.
        for bytes in [*b"\x15\x03\x03\0\x02", *b"\x14\x03\x03\0\x01", *b"\x16\x03\x03\0\x05", *b"GET /"] {
            record_length(&bytes).expect_err("not protected");
        }
        record_length(&[23, 2, 0, 0, 1]).expect_err("no TLS");
    }
}
