//! Why bytes are not a frame of this protocol.

use thiserror::Error;

use crate::limits::{MAX_DIMENSIONS, MAX_JOB_BYTES, MAX_KEY_BYTES, MAX_TAG_BYTES, MAX_TAGS};
use crate::message::{ErrorCode, Failure};

/// What is wrong with a frame. Always the fault of the peer that sent it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first four bytes are not those of a frame.
    #[error(
        "not a Stepbox frame: it starts with the bytes {found:02x?}, not with `SBX1`; is the peer another program?"
    )]
    Magic {
        /// What stood there.
        found: [u8; 4],
    },
    /// The prefix announces a longer header than the receiver reads.
    #[error("a header of {announced} bytes is announced, the limit is {limit}")]
    HeaderTooLong {
        /// Length in the prefix.
        announced: u32,
        /// The receiver's limit.
        limit: u32,
    },
    /// The prefix announces a longer body than the receiver reads.
    #[error("a body of {announced} bytes is announced, the limit is {limit}; send smaller tensors or raise the limit")]
    BodyTooLong {
        /// Length in the prefix.
        announced: u64,
        /// The receiver's limit.
        limit: u64,
    },
    /// The header is no message.
    #[error("the header is no message of protocol version 1: {0}")]
    Message(#[from] postcard::Error),
    /// The header goes on behind its message.
    #[error("{count} bytes stand in the header behind its message")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A key without characters.
    #[error("the key is empty; name the tensor")]
    KeyEmpty,
    /// A key above [`MAX_KEY_BYTES`].
    #[error("the key has {bytes} bytes, at most {MAX_KEY_BYTES} are allowed; shorten the tensor's name")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A key with a control character.
    #[error("the key has the control character U+{code:04X} at byte {position}; use printable characters only")]
    KeyControlCharacter {
        /// Where, in bytes.
        position: usize,
        /// Which.
        code: u32,
    },
    /// A job's name that is none.
    #[error(
        "a job's name has 1 to {MAX_JOB_BYTES} lower-case letters, digits, `-` and `_`, and starts with a letter or digit"
    )]
    Job,
    /// More tags than [`MAX_TAGS`].
    #[error("the tensor has {tags} tags, at most {MAX_TAGS} are allowed; name what groups of tensors share")]
    TooManyTags {
        /// How many.
        tags: usize,
    },
    /// A tag that is none.
    #[error("tag {position} has not 1 to {MAX_TAG_BYTES} bytes of printable characters; use a word such as `bias`")]
    Tag {
        /// Its place among the tensor's tags, from 0.
        position: usize,
    },
    /// A shape above [`MAX_DIMENSIONS`].
    #[error("the shape has {dimensions} dimensions, at most {MAX_DIMENSIONS} are allowed; reshape the tensor")]
    TooManyDimensions {
        /// How many.
        dimensions: usize,
    },
    /// A shape whose bytes cannot be counted.
    #[error("the shape's extents multiply to more bytes than 64 bits can count")]
    ShapeOverflows,
    /// Rows whose type has no axis to count them.
    #[error("the values' shape has no axes; its first extent is the number of rows")]
    NoRows,
    /// A digest that is none.
    #[error("a component's digest is 64 hexadecimal digits; {bytes} bytes came that are none")]
    Digest {
        /// Their number.
        bytes: usize,
    },
    /// The body is not as long as the message says.
    #[error("the body has {found} bytes, the message calls for {expected}")]
    BodyLength {
        /// What the message calls for.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A message that is nothing without a body has none.
    #[error("the body is missing; the component's bytes belong there")]
    BodyMissing,
}

impl FrameError {
    /// The code the peer is told. [`ErrorCode::Malformed`] and [`ErrorCode::Oversized`] close the connection.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::HeaderTooLong { .. } | Self::BodyTooLong { .. } => ErrorCode::Oversized,
            Self::BodyLength { .. } | Self::BodyMissing => ErrorCode::WrongLength,
            Self::Digest { .. } => ErrorCode::UnknownComponent,
            Self::TooManyDimensions { .. } | Self::ShapeOverflows | Self::NoRows => ErrorCode::WrongShape,
            // The frame is whole, and what follows it can be read: an accident costs this request alone.
            Self::KeyEmpty
            | Self::KeyTooLong { .. }
            | Self::KeyControlCharacter { .. }
            | Self::Job
            | Self::TooManyTags { .. }
            | Self::Tag { .. } => ErrorCode::InvalidName,
            Self::Magic { .. } | Self::Message(_) | Self::TrailingBytes { .. } => ErrorCode::Malformed,
        }
    }

    /// The answer to the peer that sent the frame.
    pub fn failure(&self) -> Failure {
        Failure { code: self.code(), message: self.to_string(), reason: None }
    }
}
