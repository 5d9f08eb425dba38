//! The wire protocol between a Stepbox server and its peers: what a frame looks like and what may stand in it.
//!
//! This crate turns bytes into messages and back. It does no I/O, reads no clock and knows no runtime, so both ends and
//! the fuzzer run the very same code on bytes they hold already.
//!
//! # A frame
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | magic, `SBX1` |
//! | 4..8 | length of the header, `u32` little-endian |
//! | 8..16 | length of the body, `u64` little-endian |
//! | header | the request's id and a [`Request`] or [`Response`], as [postcard](https://postcard.jamesmunns.com/wire-format) |
//! | body | raw bytes: a tensor's elements, little-endian and row-major, behind ids where they are rows; or a component |
//!
//! A receiver reads the 16 bytes of the prefix, has [`FramePrefix::decode`] hold both lengths against its
//! [`FrameLimits`] before anything is allocated for them, reads the header, [decodes](decode_request) it and
//! [holds the body's length against the message](Request::check_body) before it reads the body:
//!
//! ```
//! use stepbox_wire::{FrameLimits, FramePrefix, PREFIX_BYTES, Request, decode_request, encode_request};
//!
//! let sent = encode_request(7, &Request::Pull { key: "hidden.weight".into(), version: 3, evaluation: false }, 0);
//!
//! let (prefix, header) = sent.split_first_chunk::<PREFIX_BYTES>().expect("a frame is longer than its prefix");
//! let prefix = FramePrefix::decode(prefix, &FrameLimits::default())?;
//! assert_eq!(prefix.header_bytes as usize, header.len());
//! let (id, request) = decode_request(header)?;
//! request.check_body(prefix.body_bytes)?;
//! assert_eq!(id, 7);
//! # Ok::<(), stepbox_wire::FrameError>(())
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod deployment;
mod error;
mod frame;
mod limits;
mod message;
mod options;
mod page;
mod status;

pub use deployment::{DeploymentStatus, RevokedOptimizer, Standing, SubmissionStatus};
pub use error::FrameError;
#[doc(hidden)]
pub use frame::fuzz_frame;
pub use frame::{
    FramePrefix, MAGIC, PREFIX_BYTES, decode_request, decode_response, encode_request, encode_response, request_id_of,
};
pub use limits::{
    DEFAULT_BODY_BYTES, DEFAULT_HEADER_BYTES, DEFAULT_JOB, FrameLimits, GREETING_HEADER_BYTES, MAX_DIMENSIONS,
    MAX_JOB_BYTES, MAX_KEY_BYTES, MAX_TAG_BYTES, MAX_TAGS, ROW_ID_BYTES, check_job, check_key, check_tags,
};
pub use message::{
    ElementType, ErrorCode, Failure, PROTOCOL_VERSION, Request, RequestId, Response, TensorType, UNADDRESSED,
};
pub use options::{DeployOptions, Group, Schedule, ScheduleKind, ScheduleStatus, TensorFilter};
pub use page::{PAGE_BYTES, Page};
pub use status::{AuditStatus, KeyStatus, LogStatus, OptimizerStatus, Protection, ServerStatus, WorkerStatus};
