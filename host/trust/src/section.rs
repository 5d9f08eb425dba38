//! The outermost framing of a WebAssembly file: eight bytes of header, then sections of `id ‖ size ‖ payload`.
//! Nothing within a section is looked at, but for the name of a custom one.

use crate::TrustError;

/// How every WebAssembly file starts.
const MAGIC: [u8; 4] = *b"\0asm";

/// Version 1, layer 0: a core module.
const MODULE: [u8; 4] = [0x01, 0x00, 0x00, 0x00];

/// Version 13, layer 1: a component, as the component model's binary format has it today.
const COMPONENT: [u8; 4] = [0x0d, 0x00, 0x01, 0x00];

/// Length of the header in bytes.
pub(crate) const HEADER_BYTES: usize = 8;

/// Id of a custom section.
pub(crate) const CUSTOM: u8 = 0;

/// The longest encoding of an unsigned 32-bit number in LEB128.
const MAX_VARUINT32_BYTES: usize = 5;

/// Checks the header and returns what follows it.
///
/// The signature does not cover these eight bytes, so exactly one value of them is accepted.
pub(crate) fn component_body(file: &[u8]) -> Result<&[u8], TrustError> {
    let (header, body) = file.split_at_checked(HEADER_BYTES).ok_or(TrustError::NotWebAssembly)?;
    let (magic, version) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(TrustError::NotWebAssembly);
    }
    if version == COMPONENT {
        Ok(body)
    } else if version == MODULE {
        Err(TrustError::NotAComponent {
            reason: "it is a core module (`wasm-tools component new` makes a component of one that was built for it)",
        })
    } else {
        Err(TrustError::NotAComponent { reason: "its header has a version other than 13 and layer 1" })
    }
}

/// The header of a component.
pub(crate) fn component_header() -> impl Iterator<Item = u8> {
    MAGIC.into_iter().chain(COMPONENT)
}

/// The bytes do not have the structure asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Truncated;

/// Reads from the front of a slice and never past its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Truncated> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn slice(&mut self, length: u32) -> Result<&'a [u8], Truncated> {
        let length = usize::try_from(length).map_err(|_| Truncated)?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// An unsigned 32-bit number in LEB128, at most five bytes.
    pub(crate) fn varuint32(&mut self) -> Result<u32, Truncated> {
        let mut value = 0;
        for position in 0..MAX_VARUINT32_BYTES {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| Truncated);
            }
        }
        Err(Truncated)
    }

    /// A byte string after its length.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], Truncated> {
        let length = self.varuint32()?;
        self.slice(length)
    }
}

/// A section and the bytes it stands in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    /// Name and content where this is a custom section with a readable name.
    pub(crate) custom: Option<(&'a str, &'a [u8])>,
    /// All of it, with id and size.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Section<'a> {
    /// Reads one section.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Truncated> {
        let start = reader.rest();
        let id = reader.byte()?;
        let payload = reader.sized()?;
        let bytes = &start[..start.len() - reader.rest().len()];
        let custom = if id == CUSTOM { custom(payload) } else { None };
        Ok(Self { custom, bytes })
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.custom.is_some_and(|(own, _)| own == name)
    }
}

fn custom(payload: &[u8]) -> Option<(&str, &[u8])> {
    let mut reader = Reader::new(payload);
    let name = std::str::from_utf8(reader.sized().ok()?).ok()?;
    Some((name, reader.rest()))
}

/// All sections of a body, in order.
pub(crate) fn sections(body: &[u8]) -> impl Iterator<Item = Result<Section<'_>, Truncated>> {
    let mut reader = Reader::new(body);
    std::iter::from_fn(move || {
        if reader.is_empty() {
            return None;
        }
        let section = Section::read(&mut reader);
        if section.is_err() {
            reader = Reader::new(&[]);
        }
        Some(section)
    })
}

/// Writes a custom section in the shortest encoding.
pub(crate) fn write_custom(name: &str, content: &[u8], out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(name.len() + content.len() + MAX_VARUINT32_BYTES);
    write_sized(name.as_bytes(), &mut payload);
    payload.extend_from_slice(content);
    out.push(CUSTOM);
    write_sized(&payload, out);
}

/// Writes a byte string after its length, in the shortest encoding.
pub(crate) fn write_sized(bytes: &[u8], out: &mut Vec<u8>) {
    write_varuint32(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Writes a number in the shortest encoding of LEB128.
pub(crate) fn write_varuint32(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_they_are_written_at_every_size_of_the_encoding() {
        for length in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, 0x1f_ffff, 0x20_0000] {
            let bytes = vec![7; length];
            let mut out = Vec::new();
            write_sized(&bytes, &mut out);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.sized(), Ok(&*bytes), "{length}");
            assert!(reader.is_empty(), "{length}");
        }
    }

    #[test]
    fn numbers_past_32_bits_are_refused() {
        let read = |bytes: &[u8]| Reader::new(bytes).varuint32();
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(Truncated));
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(Truncated));
        assert_eq!(read(&[0x80]), Err(Truncated));
    }

    #[test]
    fn a_broken_section_ends_the_walk() {
        let mut body = Vec::new();
        write_custom("a", b"1", &mut body);
        body.extend_from_slice(&[1, 9, 0]);
        let walked: Vec<_> = sections(&body).map(|section| section.map(|s| s.custom)).collect();
        assert_eq!(walked, [Ok(Some(("a", &b"1"[..]))), Err(Truncated)]);
    }
}
