//! What a frame may hold at most, and why.

use crate::error::FrameError;
use crate::message::{Request, Response, TensorType};

/// Longest header accepted by default: 1 MiB. The largest message is a deployment with as many groups of tensors as it may
/// have; lists are sent in [pages](crate::PAGE_BYTES) far below it. Small enough to be held for each of thousands of
/// connections.
pub const DEFAULT_HEADER_BYTES: u32 = 1 << 20;

/// Longest body accepted by default: 1 GiB, a tensor of 268 million `f32`. The largest single tensors in use, the
/// embeddings of large language models, stay below 2.2 billion parameters, and are split by their owners long before.
pub const DEFAULT_BODY_BYTES: u64 = 1 << 30;

/// Longest header accepted from a peer that has not said [`Request::Hello`] yet: a handful of bytes are enough for it.
pub const GREETING_HEADER_BYTES: u32 = 64;

/// Longest key, in bytes of UTF-8. Parameter names of real models are dotted paths below 150 bytes.
pub const MAX_KEY_BYTES: usize = 256;

/// Longest name of a job, in bytes. With it a greeting stays below [`GREETING_HEADER_BYTES`].
pub const MAX_JOB_BYTES: usize = 32;

/// The job of a connection that names none.
pub const DEFAULT_JOB: &str = "default";

/// Most extents of a shape. Convolutions over volumes with groups have six; eight is what most array libraries that
/// fix a rank allow.
pub const MAX_DIMENSIONS: usize = 8;

/// Most tags of a tensor.
pub const MAX_TAGS: usize = 16;

/// Longest tag, in bytes: a word such as `embedding`.
pub const MAX_TAG_BYTES: usize = 64;

/// Hexadecimal digits of a SHA-256 digest.
const DIGEST_CHARACTERS: usize = 64;

/// Bytes of a row's id in a body.
pub const ROW_ID_BYTES: u64 = 8;

/// The longest header and body a receiver is ready to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Longest header, in bytes.
    pub header_bytes: u32,
    /// Longest body, in bytes.
    pub body_bytes: u64,
}

impl FrameLimits {
    /// For a peer that has not said [`Request::Hello`] yet.
    pub const GREETING: Self = Self { header_bytes: GREETING_HEADER_BYTES, body_bytes: 0 };
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { header_bytes: DEFAULT_HEADER_BYTES, body_bytes: DEFAULT_BODY_BYTES }
    }
}

/// Whether `key` may name a tensor: 1 to [`MAX_KEY_BYTES`] bytes without control characters, so that it can stand in a
/// log line, a terminal and a file name's index as it is.
pub fn check_key(key: &str) -> Result<(), FrameError> {
    if key.is_empty() {
        return Err(FrameError::KeyEmpty);
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(FrameError::KeyTooLong { bytes: key.len() });
    }
    match key.char_indices().find(|(_, character)| character.is_control()) {
        Some((position, character)) => Err(FrameError::KeyControlCharacter { position, code: u32::from(character) }),
        None => Ok(()),
    }
}

/// Whether `job` may name a job: 1 to [`MAX_JOB_BYTES`] lower-case letters, digits, `-` and `_`, the first a letter or
/// digit. So it can be a folder's name, on every file system, and two names never look the same.
pub fn check_job(job: &str) -> Result<(), FrameError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_allowed = |byte: u8| is_plain(byte) || byte == b'-' || byte == b'_';
    let starts_well = job.bytes().next().is_some_and(is_plain);
    if starts_well && job.len() <= MAX_JOB_BYTES && job.bytes().all(is_allowed) { Ok(()) } else { Err(FrameError::Job) }
}

/// Whether a tensor may have these tags: at most [`MAX_TAGS`], each of 1 to [`MAX_TAG_BYTES`] bytes without control
/// characters.
pub fn check_tags(tags: &[String]) -> Result<(), FrameError> {
    let wrong = |tag: &&String| tag.is_empty() || tag.len() > MAX_TAG_BYTES || tag.contains(char::is_control);
    match tags.iter().position(|tag| wrong(&tag)) {
        _ if tags.len() > MAX_TAGS => Err(FrameError::TooManyTags { tags: tags.len() }),
        Some(position) => Err(FrameError::Tag { position }),
        None => Ok(()),
    }
}

/// Whether a text can be the SHA-256 of a file, in hexadecimal.
fn check_digest(digest: &str) -> Result<(), FrameError> {
    let is_digest = digest.len() == DIGEST_CHARACTERS && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { Ok(()) } else { Err(FrameError::Digest { bytes: digest.len() }) }
}

impl TensorType {
    /// Whether there can be such a tensor: at most [`MAX_DIMENSIONS`] extents, and a number of bytes that fits 64 bits.
    pub fn check(&self) -> Result<(), FrameError> {
        if self.shape.len() > MAX_DIMENSIONS {
            return Err(FrameError::TooManyDimensions { dimensions: self.shape.len() });
        }
        self.bytes().map(drop).ok_or(FrameError::ShapeOverflows)
    }
}

impl Request {
    /// Holds every key and type in the message against this crate's limits. [`decode_request`](crate::decode_request)
    /// has done it already; a sender does it to learn of a bad key before the peer does.
    pub fn check(&self) -> Result<(), FrameError> {
        match self {
            Self::Init { key, tensor, tags } => {
                check_key(key)?;
                check_tags(tags)?;
                tensor.check()
            }
            Self::Push { key, tensor, .. } => {
                check_key(key)?;
                tensor.check()
            }
            Self::PushRows { key, values, .. } => {
                check_key(key)?;
                values.check()?;
                rows_bytes(values).map(drop)
            }
            Self::Pull { key, .. } | Self::PullRows { key, .. } => check_key(key),
            Self::Hello { job, .. } if !job.is_empty() => check_job(job),
            Self::Hello { .. }
            | Self::Register
            | Self::Barrier { .. }
            | Self::Leave
            | Self::Deploy(_)
            | Self::Status { .. }
            | Self::SetSchedule { .. }
            | Self::Submit
            | Self::Workers { .. } => Ok(()),
            Self::Keys { after } => after.as_deref().map_or(Ok(()), check_key),
            Self::Rollback { to: digest } | Self::Submissions { after: digest } => {
                digest.as_deref().map_or(Ok(()), check_digest)
            }
            Self::Activate { digest, .. } | Self::Withdraw { digest } => check_digest(digest),
        }
    }

    /// Holds the length of the body that came, or is announced, against what the message says it is.
    pub fn check_body(&self, body_bytes: u64) -> Result<(), FrameError> {
        match self {
            // Only the worker of rank 0 sends the value, and that is for the server to judge.
            Self::Init { .. } if body_bytes == 0 => Ok(()),
            Self::Init { tensor, .. } | Self::Push { tensor, .. } => check_tensor_body(tensor, body_bytes),
            Self::PushRows { values, .. } => check_length(rows_bytes(values)?, body_bytes),
            Self::PullRows { rows, .. } => {
                check_length(rows.checked_mul(ROW_ID_BYTES).ok_or(FrameError::ShapeOverflows)?, body_bytes)
            }
            Self::Deploy(_) | Self::Submit if body_bytes == 0 => Err(FrameError::BodyMissing),
            Self::Deploy(_) | Self::Submit => Ok(()),
            Self::Hello { .. }
            | Self::Register
            | Self::Pull { .. }
            | Self::Barrier { .. }
            | Self::Leave
            | Self::Status { .. }
            | Self::SetSchedule { .. }
            | Self::Rollback { .. }
            | Self::Activate { .. }
            | Self::Submissions { .. }
            | Self::Withdraw { .. }
            | Self::Keys { .. }
            | Self::Workers { .. } => check_length(0, body_bytes),
        }
    }
}

impl Response {
    /// As [`Request::check`], for what a server sends.
    pub fn check(&self) -> Result<(), FrameError> {
        match self {
            Self::Pulled { tensor, .. } | Self::PulledRows { tensor, .. } => tensor.check(),
            Self::Keys(page) => page.entries.iter().try_for_each(|key| {
                check_key(&key.key)?;
                key.tensor.check()
            }),
            Self::Status(_)
            | Self::Workers(_)
            | Self::Welcome { .. }
            | Self::Registered { .. }
            | Self::Initialized { .. }
            | Self::Pushed { .. }
            | Self::BarrierPassed
            | Self::Left
            | Self::Deployed { .. }
            | Self::ScheduleSet(_)
            | Self::Submitted(_)
            | Self::Submissions(_)
            | Self::Withdrawn
            | Self::Failed(_) => Ok(()),
        }
    }

    /// As [`Request::check_body`], for what a server sends.
    pub fn check_body(&self, body_bytes: u64) -> Result<(), FrameError> {
        match self {
            Self::Pulled { tensor, .. } | Self::PulledRows { tensor, .. } => check_tensor_body(tensor, body_bytes),
            Self::Welcome { .. }
            | Self::Registered { .. }
            | Self::Initialized { .. }
            | Self::Pushed { .. }
            | Self::BarrierPassed
            | Self::Left
            | Self::Deployed { .. }
            | Self::Status(_)
            | Self::ScheduleSet(_)
            | Self::Submitted(_)
            | Self::Submissions(_)
            | Self::Withdrawn
            | Self::Keys(_)
            | Self::Workers(_)
            | Self::Failed(_) => check_length(0, body_bytes),
        }
    }
}

/// Bytes of rows' ids and values together.
fn rows_bytes(values: &TensorType) -> Result<u64, FrameError> {
    let rows = values.shape.first().ok_or(FrameError::NoRows)?;
    let bytes = rows.checked_mul(ROW_ID_BYTES).zip(values.bytes()).and_then(|(ids, values)| ids.checked_add(values));
    bytes.ok_or(FrameError::ShapeOverflows)
}

fn check_tensor_body(tensor: &TensorType, body_bytes: u64) -> Result<(), FrameError> {
    check_length(tensor.bytes().ok_or(FrameError::ShapeOverflows)?, body_bytes)
}

fn check_length(expected: u64, found: u64) -> Result<(), FrameError> {
    if expected == found { Ok(()) } else { Err(FrameError::BodyLength { expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ElementType, ErrorCode};
    use crate::options::DeployOptions;

    fn tensor(shape: &[u64]) -> TensorType {
        TensorType { element: ElementType::F32, shape: shape.to_vec() }
    }

    #[test]
    fn keys_are_held_to_length_and_printable_characters() {
        check_key("encoder.layers.0/weight:0 größe").expect("a key of any printable characters");
        check_key(&"k".repeat(MAX_KEY_BYTES)).expect("the longest key");
        assert_eq!(check_key(""), Err(FrameError::KeyEmpty));
        assert_eq!(check_key(&"k".repeat(MAX_KEY_BYTES + 1)), Err(FrameError::KeyTooLong { bytes: 257 }));
        assert_eq!(check_key("ab\ncd"), Err(FrameError::KeyControlCharacter { position: 2, code: 10 }));
        assert_eq!(check_key("\u{1b}[2J"), Err(FrameError::KeyControlCharacter { position: 0, code: 0x1b }));
    }

    #[test]
    fn tags_are_few_and_short() {
        let tags = |count: usize, tag: &str| vec![tag.to_owned(); count];
        check_tags(&tags(MAX_TAGS, &"t".repeat(MAX_TAG_BYTES))).expect("as many and as long as there may be");
        assert_eq!(check_tags(&tags(17, "bias")), Err(FrameError::TooManyTags { tags: 17 }));
        for wrong in ["", "a\nb", &"t".repeat(MAX_TAG_BYTES + 1)] {
            let tags = ["bias".to_owned(), wrong.to_owned()];
            assert_eq!(check_tags(&tags), Err(FrameError::Tag { position: 1 }));
        }
    }

    #[test]
    fn shapes_are_held_to_rank_and_to_64_bits_of_bytes() {
        tensor(&[]).check().expect("a scalar");
        tensor(&[1; MAX_DIMENSIONS]).check().expect("the highest rank");
        tensor(&[0, 3]).check().expect("a tensor without elements");
        assert_eq!(tensor(&[1; 9]).check(), Err(FrameError::TooManyDimensions { dimensions: 9 }));
        assert_eq!(tensor(&[1 << 32, 1 << 31]).check(), Err(FrameError::ShapeOverflows));
        // Elements fit 64 bits, bytes do not.
        assert_eq!(tensor(&[1 << 62]).check(), Err(FrameError::ShapeOverflows));
    }

    #[test]
    fn bodies_are_held_against_their_message() {
        let push = Request::Push { key: "w".into(), round: 1, tensor: tensor(&[2, 3]), loss: None };
        push.check_body(24).expect("six elements of four bytes");
        for wrong in [0, 6, 23, 25, u64::MAX] {
            let refused = push.check_body(wrong).expect_err("a push of another length");
            assert_eq!(refused, FrameError::BodyLength { expected: 24, found: wrong });
            assert_eq!(refused.code(), ErrorCode::WrongLength);
        }
        let rows = |shape: &[u64]| Request::PushRows { key: "w".into(), round: 1, values: tensor(shape), loss: None };
        rows(&[2, 3]).check_body(2 * 8 + 24).expect("two ids and six elements");
        rows(&[0, 3]).check_body(0).expect("no row");
        assert_eq!(rows(&[2, 3]).check_body(24), Err(FrameError::BodyLength { expected: 40, found: 24 }));
        assert_eq!(rows(&[]).check(), Err(FrameError::NoRows));
        assert_eq!(rows(&[u64::MAX, 0]).check(), Err(FrameError::ShapeOverflows), "ids beyond all memory");
        let pull = |rows| Request::PullRows { key: "w".into(), version: 0, rows };
        pull(2).check_body(16).expect("two ids");
        assert_eq!(pull(u64::MAX).check_body(0), Err(FrameError::ShapeOverflows));
        let init = Request::Init { key: "w".into(), tensor: tensor(&[2, 3]), tags: Vec::new() };
        init.check_body(0).expect("only the type");
        init.check_body(24).expect("with the value");
        init.check_body(20).expect_err("with part of the value");
        assert_eq!(Request::Register.check_body(1), Err(FrameError::BodyLength { expected: 0, found: 1 }));
        let deploy = Request::Deploy(DeployOptions::default());
        deploy.check_body(1000).expect("a component");
        assert_eq!(deploy.check_body(0), Err(FrameError::BodyMissing));
        Request::Submit.check_body(1000).expect("a component");
        assert_eq!(Request::Submit.check_body(0), Err(FrameError::BodyMissing));
        for wrong in ["", "0123", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            let refused = Request::Withdraw { digest: wrong.to_owned() }.check();
            assert_eq!(refused, Err(FrameError::Digest { bytes: wrong.len() }), "{wrong}");
        }
        Request::Rollback { to: Some("0a".repeat(32)) }.check().expect("a digest");
        Response::BarrierPassed.check_body(4).expect_err("an answer with a body it must not have");
    }
}
