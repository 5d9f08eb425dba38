//! Frames: the fixed prefix, and headers to and from bytes.

use serde::{Deserialize, Serialize};

use crate::error::FrameError;
use crate::limits::FrameLimits;
use crate::message::{Request, RequestId, Response};

/// How every frame starts. The digit is the frame layout's version, not the messages'.
pub const MAGIC: [u8; 4] = *b"SBX1";

/// Length of a frame's fixed part.
pub const PREFIX_BYTES: usize = 16;

/// A frame's fixed part: how much follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePrefix {
    /// Length of the header, in bytes.
    pub header_bytes: u32,
    /// Length of the body, in bytes.
    pub body_bytes: u64,
}

impl FramePrefix {
    /// The prefix as it stands on the wire.
    pub fn encode(&self) -> [u8; PREFIX_BYTES] {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.header_bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes
    }

    /// Reads a prefix and holds it against the limits, so that its lengths may be allocated.
    ///
    /// After an error the receiver no longer knows where the next frame starts: it answers, if it can, and closes the
    /// connection.
    pub fn decode(bytes: &[u8; PREFIX_BYTES], limits: &FrameLimits) -> Result<Self, FrameError> {
        let [m0, m1, m2, m3, h0, h1, h2, h3, body @ ..] = *bytes;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let prefix = Self { header_bytes: u32::from_le_bytes([h0, h1, h2, h3]), body_bytes: u64::from_le_bytes(body) };
        if prefix.header_bytes > limits.header_bytes {
            return Err(FrameError::HeaderTooLong { announced: prefix.header_bytes, limit: limits.header_bytes });
        }
        if prefix.body_bytes > limits.body_bytes {
            return Err(FrameError::BodyTooLong { announced: prefix.body_bytes, limit: limits.body_bytes });
        }
        Ok(prefix)
    }
}

/// Prefix and header of a request's frame; the caller sends `body_bytes` bytes of body right behind them.
pub fn encode_request(id: RequestId, request: &Request, body_bytes: u64) -> Vec<u8> {
    encode(id, request, body_bytes)
}

/// Prefix and header of a response's frame; the caller sends `body_bytes` bytes of body right behind them.
pub fn encode_response(id: RequestId, response: &Response, body_bytes: u64) -> Vec<u8> {
    encode(id, response, body_bytes)
}

/// Reads a request's header. Every key and type in it is within this crate's limits; hold the body's length against it
/// with [`Request::check_body`].
pub fn decode_request(header: &[u8]) -> Result<(RequestId, Request), FrameError> {
    let (id, request): (RequestId, Request) = decode(header)?;
    request.check()?;
    Ok((id, request))
}

/// Reads a response's header. Every key and type in it is within this crate's limits; hold the body's length against it
/// with [`Response::check_body`].
pub fn decode_response(header: &[u8]) -> Result<(RequestId, Response), FrameError> {
    let (id, response): (RequestId, Response) = decode(header)?;
    response.check()?;
    Ok((id, response))
}

/// The request's id from a header that [`decode_request`] refused, so that the refusal can be addressed. `None` where
/// the header does not even hold an id.
pub fn request_id_of(header: &[u8]) -> Option<RequestId> {
    postcard::take_from_bytes(header).ok().map(|(id, _)| id)
}

fn encode(id: RequestId, message: &impl Serialize, body_bytes: u64) -> Vec<u8> {
    // The header is written behind room for the prefix, which is filled in once the header's length is known.
    let mut frame = postcard::to_extend(&(id, message), vec![0; PREFIX_BYTES])
        .expect("messages serialise: their lengths are known and a Vec takes any number of bytes");
    let header_bytes = u32::try_from(frame.len() - PREFIX_BYTES).expect("a message is far from 4 GiB");
    frame[..PREFIX_BYTES].copy_from_slice(&FramePrefix { header_bytes, body_bytes }.encode());
    frame
}

fn decode<'a, Message: Deserialize<'a>>(header: &'a [u8]) -> Result<Message, FrameError> {
    let (message, rest) = postcard::take_from_bytes(header)?;
    if rest.is_empty() { Ok(message) } else { Err(FrameError::TrailingBytes { count: rest.len() }) }
}

/// What the fuzzer calls: reads `bytes` as a connection's stream of frames, both as requests and as responses.
///
/// Panics where a frame that was accepted does not survive being sent on.
#[doc(hidden)]
pub fn fuzz_frame(bytes: &[u8]) {
    let limits = FrameLimits::default();
    let mut stream = bytes;
    while let Some((prefix, rest)) = stream.split_first_chunk::<PREFIX_BYTES>() {
        let Ok(prefix) = FramePrefix::decode(prefix, &limits) else {
            return;
        };
        let Some((header, rest)) = rest.split_at_checked(prefix.header_bytes as usize) else {
            return;
        };
        let id = request_id_of(header);
        if let Ok((found, request)) = decode_request(header) {
            assert_eq!(id, Some(found));
            // Frames are compared, not messages: a NaN in a message is not equal to itself.
            let sent_on = encode_request(found, &request, prefix.body_bytes);
            let (again, same) = decode_request(&sent_on[PREFIX_BYTES..]).expect("an accepted request is encodable");
            assert_eq!(sent_on, encode_request(again, &same, prefix.body_bytes));
            let _ = request.check_body(prefix.body_bytes);
        }
        if let Ok((found, response)) = decode_response(header) {
            assert_eq!(id, Some(found));
            let sent_on = encode_response(found, &response, prefix.body_bytes);
            let (again, same) = decode_response(&sent_on[PREFIX_BYTES..]).expect("an accepted response is encodable");
            assert_eq!(sent_on, encode_response(again, &same, prefix.body_bytes));
            let _ = response.check_body(prefix.body_bytes);
        }
        let Ok(body_bytes) = usize::try_from(prefix.body_bytes) else {
            return;
        };
        let Some((_, next)) = rest.split_at_checked(body_bytes) else {
            return;
        };
        stream = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ErrorCode, PROTOCOL_VERSION};

    #[test]
    fn the_layout_of_a_frame_is_pinned() {
        let frame = encode_request(5, &Request::Pull { key: "w".into(), version: 300, evaluation: false }, 0);
        let expected: &[u8] = &[
            b'S', b'B', b'X', b'1', // magic
            7, 0, 0, 0, // header
            0, 0, 0, 0, 0, 0, 0, 0, // body
            5, // request id
            4, // Pull
            1, b'w', // key
            0xac, 0x02, // version 300 as a varint
            0,    // not for evaluation
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_greeting_fits_the_limits_of_a_peer_not_yet_known() {
        let frame = encode_request(u64::MAX, &Request::Hello { protocol: PROTOCOL_VERSION, job: String::new() }, 0);
        let prefix = frame.first_chunk().expect("a frame has a prefix");
        FramePrefix::decode(prefix, &FrameLimits::GREETING).expect("a greeting is short");
    }

    #[test]
    fn another_protocol_is_told_from_a_frame() {
        let refused = FramePrefix::decode(b"GET / HTTP/1.1\r\n", &FrameLimits::default()).expect_err("HTTP");
        assert_eq!(refused, FrameError::Magic { found: *b"GET " });
        assert_eq!(refused.code(), ErrorCode::Malformed);
    }

    #[test]
    fn announced_lengths_are_held_against_the_limits() {
        let limits = FrameLimits { header_bytes: 10, body_bytes: 20 };
        let decode =
            |header_bytes, body_bytes| FramePrefix::decode(&FramePrefix { header_bytes, body_bytes }.encode(), &limits);
        decode(10, 20).expect("at the limits");
        assert_eq!(decode(11, 20), Err(FrameError::HeaderTooLong { announced: 11, limit: 10 }));
        assert_eq!(decode(10, 21), Err(FrameError::BodyTooLong { announced: 21, limit: 20 }));
        let refused = decode(u32::MAX, u64::MAX).expect_err("everything at once");
        assert_eq!(refused.code(), ErrorCode::Oversized);
    }

    #[test]
    fn bytes_behind_a_message_are_refused() {
        let mut frame = encode_request(1, &Request::Register, 0);
        frame.extend([0, 0]);
        let refused = decode_request(&frame[PREFIX_BYTES..]).expect_err("two bytes too many");
        assert_eq!(refused, FrameError::TrailingBytes { count: 2 });
    }

    #[test]
    fn a_refused_request_can_still_be_answered() {
        let request = Request::Pull { key: String::new(), version: 0, evaluation: false };
        let frame = encode_request(900, &request, 0);
        assert_eq!(decode_request(&frame[PREFIX_BYTES..]), Err(FrameError::KeyEmpty));
        assert_eq!(request_id_of(&frame[PREFIX_BYTES..]), Some(900));
        assert_eq!(request_id_of(&[]), None);
    }

    #[test]
    fn the_fuzz_entry_reads_streams_and_survives_nonsense() {
        let mut stream = encode_request(1, &Request::Register, 0);
        stream.extend(encode_response(1, &Response::BarrierPassed, 3));
        stream.extend([1, 2, 3]);
        fuzz_frame(&stream);
        for cut in 0..stream.len() {
            fuzz_frame(&stream[..cut]);
            let mut flipped = stream.clone();
            flipped[cut] ^= 0x55;
            fuzz_frame(&flipped);
        }
    }
}
