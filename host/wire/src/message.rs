//! The messages of protocol version 1: what stands in a frame's header.
//!
//! Tensor bytes never stand in a message: they follow the header as the frame's body, raw and little-endian, so that
//! no per-element work is done for them on either side.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::deployment::SubmissionStatus;
use crate::options::{DeployOptions, Schedule, ScheduleStatus};
use crate::page::Page;
use crate::status::{KeyStatus, OptimizerStatus, ServerStatus, WorkerStatus};

/// The protocol version this crate speaks. A peer that speaks another is refused with [`ErrorCode::ProtocolVersion`].
pub const PROTOCOL_VERSION: u16 = 1;

/// Names a request within its connection; the answer carries the same number. Chosen by the client, never reused
/// while the request is unanswered.
pub type RequestId = u64;

/// The id of a failure that answers no request, because none could be read: clients count from 1. It is the last frame
/// on its connection.
pub const UNADDRESSED: RequestId = 0;

/// Element type of a tensor. Weights and rows are [`F32`](Self::F32) in this version, and whole gradients may also be
/// [`F16`](Self::F16) or [`Bf16`](Self::Bf16), whatever those of other workers are; the others have names so that a peer
/// that offers one is told [`ErrorCode::WrongElementType`], and not that its message makes no sense. New ones are added
/// at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ElementType {
    /// IEEE 754 binary32, little-endian.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// Signed 32-bit integers.
    I32,
    /// Signed 64-bit integers.
    I64,
    /// Unsigned bytes.
    U8,
}

impl ElementType {
    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// The type's name as it stands in messages, such as `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a tensor's bytes mean.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub element: ElementType,
    /// Extents, outermost first; row-major. Empty for a scalar.
    pub shape: Vec<u64>,
}

impl TensorType {
    /// Number of elements; `None` where the product overflows.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, extent| product.checked_mul(*extent))
    }

    /// Number of bytes on the wire; `None` where the product overflows.
    pub fn bytes(&self) -> Option<u64> {
        self.elements()?.checked_mul(self.element.bytes())
    }
}

/// What a client asks. A connection's first request is [`Request::Hello`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Opens the conversation. Who the peer is comes from its certificate, not from here.
    Hello {
        /// [`PROTOCOL_VERSION`] of the client.
        protocol: u16,
        /// Which of the server's jobs this connection belongs to, to its end; empty for
        /// [`DEFAULT_JOB`](crate::DEFAULT_JOB).
        job: String,
    },
    /// Joins the job as the worker the certificate names. Answered by [`Response::Registered`].
    Register,
    /// Makes a key known. The body (its first value) counts from the worker of rank 0; other workers send the type
    /// with an empty body and are answered once the key exists.
    Init {
        /// The key.
        key: String,
        /// Its type.
        tensor: TensorType,
        /// Free labels such as `bias` or `embedding`, for groups and optimizers. Those of the worker of rank 0 count.
        tags: Vec<String>,
    },
    /// This worker's gradient for one round of a key, as the body.
    Push {
        /// The key.
        key: String,
        /// The round the gradient belongs to: one more than the version of the weights it was computed from.
        round: u64,
        /// Type of the body: the key's shape, and one of the types that gradients may have.
        tensor: TensorType,
        /// The loss the gradient belongs to, for optimizers that use it. Must be finite.
        loss: Option<f32>,
    },
    /// Asks for the weights once the key has reached this version.
    Pull {
        /// The key.
        key: String,
        /// The lowest version wanted; 0 for whatever is there.
        version: u64,
        /// Whether weights for evaluation are wanted, where the optimizer makes others than those it trains
        /// (Schedule-Free, averaging).
        evaluation: bool,
    },
    /// Answered when every worker of the job has asked for the barrier of this number.
    Barrier {
        /// Counts a worker's barriers, from 1.
        number: u64,
    },
    /// Says goodbye: this worker leaves the job on purpose and will not be waited for as lost.
    Leave,
    /// Deploys the signed component that is the body.
    Deploy(DeployOptions),
    /// Asks how the server is. The lists of workers and keys have requests of their own. Answered by
    /// [`Response::Status`].
    Status {
        /// Whether to hash all weights, which takes a while for large models.
        weights_digest: bool,
    },
    /// Sets the learning rate's schedule, for all keys from the same round on.
    SetSchedule {
        /// The peak; as it is where absent.
        learning_rate: Option<f64>,
        /// How it goes from round to round.
        schedule: Schedule,
    },
    /// This worker's gradient for one round of a key of at least two axes, where only some rows (its first axis) have
    /// one. The body is the rows' ids, `u64` little-endian, then their values in the same order. Ids may repeat: their
    /// values are added up, in this order. It counts as a push of the whole tensor with zeros
    /// elsewhere, but that optimizers of touched rows visit these rows alone.
    PushRows {
        /// The key.
        key: String,
        /// The round, as in [`Request::Push`].
        round: u64,
        /// Type of the values: that of the key, but for the first extent, which is the number of ids.
        values: TensorType,
        /// As in [`Request::Push`].
        loss: Option<f32>,
    },
    /// Asks for some rows of the weights once the key has reached this version. The body is their ids, as in
    /// [`Request::PushRows`].
    PullRows {
        /// The key.
        key: String,
        /// The lowest version wanted; 0 for whatever is there.
        version: u64,
        /// How many ids the body has.
        rows: u64,
    },
    /// Has an optimizer deployed before take over again, with the options it had. Answered by [`Response::Deployed`].
    Rollback {
        /// Digest of the one to go back to, which must be among those the status lists; the one deployed before the
        /// present one where absent.
        to: Option<String>,
    },
    /// Has the server verify, admit and keep the signed component that is the body, without deploying it. Answered by
    /// [`Response::Submitted`].
    Submit,
    /// Deploys a component that was submitted. Answered by [`Response::Deployed`].
    Activate {
        /// As in [`OptimizerStatus::digest`].
        digest: String,
        /// As in [`Request::Deploy`].
        options: DeployOptions,
    },
    /// Asks for a page of the components that were submitted. Answered by [`Response::Submissions`].
    Submissions {
        /// Digest of the last one of the page before; absent for the first page.
        after: Option<String>,
    },
    /// Has the server forget a component that was submitted. Answered by [`Response::Withdrawn`].
    Withdraw {
        /// As in [`OptimizerStatus::digest`].
        digest: String,
    },
    /// Asks for a page of the model's keys. Answered by [`Response::Keys`].
    Keys {
        /// The last key of the page before; absent for the first page.
        after: Option<String>,
    },
    /// Asks for a page of the job's workers. Answered by [`Response::Workers`].
    Workers {
        /// The last rank of the page before; absent for the first page.
        after: Option<u32>,
    },
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Hello`].
    Welcome {
        /// [`PROTOCOL_VERSION`] of the server.
        protocol: u16,
        /// The identity it read from the client's certificate.
        identity: String,
    },
    /// To [`Request::Register`].
    Registered {
        /// This worker's rank: its position in the job's list of workers.
        rank: u32,
        /// Number of workers of the job.
        workers: u32,
        /// The last barrier this worker has passed, 0 for none: where a restarted worker goes on counting.
        barrier: u64,
    },
    /// To [`Request::Init`].
    Initialized {
        /// The key's version: the number of rounds it has been updated. More than 0 where training went on before
        /// this worker came.
        version: u64,
        /// Whether this request's value became the key's first one.
        created: bool,
    },
    /// To [`Request::Push`]: the server has the gradient.
    Pushed {
        /// Whether it had it before: the repetition is not counted.
        repeated: bool,
    },
    /// To [`Request::Pull`]; the weights are the body.
    Pulled {
        /// The version of the weights.
        version: u64,
        /// Type of the body.
        tensor: TensorType,
    },
    /// To [`Request::Barrier`].
    BarrierPassed,
    /// To [`Request::Leave`].
    Left,
    /// To [`Request::Deploy`], [`Request::Activate`] and [`Request::Rollback`].
    Deployed {
        /// What was deployed.
        optimizer: OptimizerStatus,
        /// Keys update with it from this round on.
        from_round: u64,
        /// Whether the state of the optimizer before it is kept.
        state_kept: bool,
        /// The schedule of its learning rate.
        schedule: ScheduleStatus,
        /// The groups by name, each with how many of the keys known so far it has taken.
        groups: Vec<(String, u64)>,
    },
    /// To [`Request::Status`]; without the lists of workers and keys, which are empty.
    Status(Box<ServerStatus>),
    /// To [`Request::SetSchedule`].
    ScheduleSet(ScheduleStatus),
    /// To any request that failed. Nothing was changed by it unless the message says so.
    Failed(Failure),
    /// To [`Request::PullRows`]; the rows are the body, in the order of the ids.
    PulledRows {
        /// The version of the weights.
        version: u64,
        /// Type of the body: that of the key, but for the first extent, which is the number of ids.
        tensor: TensorType,
    },
    /// To [`Request::Submit`]: what the server keeps now.
    Submitted(Box<SubmissionStatus>),
    /// To [`Request::Submissions`], in order of submission.
    Submissions(Page<SubmissionStatus>),
    /// To [`Request::Withdraw`].
    Withdrawn,
    /// To [`Request::Keys`], by name.
    Keys(Page<KeyStatus>),
    /// To [`Request::Workers`], by rank.
    Workers(Page<WorkerStatus>),
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What a program can branch on.
    pub code: ErrorCode,
    /// What happened, to what, and what to do.
    pub message: String,
    /// The stable name of one reason among several that the code has, such as `revoked-key` under `untrusted`.
    pub reason: Option<String>,
}

/// Kinds of failure, stable across versions: new ones are added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The bytes are no frame or no message of this protocol. The connection is closed after it. Peer's fault.
    Malformed,
    /// A frame announces more than the limit. The connection is closed after it. Peer's fault.
    Oversized,
    /// The peer speaks another protocol version. Peer's fault.
    ProtocolVersion,
    /// The request came out of order, such as a push before the registration. Peer's fault.
    OutOfOrder,
    /// The identity has no right to this. Peer's or operator's fault.
    Forbidden,
    /// No such key. Peer's fault.
    UnknownKey,
    /// The shape is not the key's. Peer's fault.
    WrongShape,
    /// The element type is not the key's, or for a gradient none that is accepted. Peer's fault.
    WrongElementType,
    /// The body's length is not what the type says. Peer's fault.
    WrongLength,
    /// The round is not the one that is open. Peer's fault.
    WrongRound,
    /// A value is NaN or infinite. Peer's fault.
    NotFinite,
    /// A worker of the job is gone, so the round or barrier cannot end.
    WorkerLost,
    /// A round or barrier did not end within the server's time-out.
    TimedOut,
    /// No optimizer is deployed, so gradients cannot be applied. Operator's to mend.
    NoOptimizer,
    /// The component's signature, publisher or version is not acceptable. Publisher's fault.
    Untrusted,
    /// The component is signed but was not admitted to the sandbox. Publisher's fault.
    NotAdmitted,
    /// A hyperparameter is unknown or out of range. Operator's fault.
    Hyperparameter,
    /// The optimizer failed in a round; weights and state are as they were before it. Publisher's fault, or that of the
    /// worker whose gradient the message names as far above all others.
    OptimizerFailed,
    /// A limit of the server is reached; later may work.
    Busy,
    /// The server's own fault.
    Internal,
    /// The optimizer needs the loss and the push has none. Peer's fault.
    LossMissing,
    /// A row's id is not below the number of the key's rows. Peer's fault.
    RowOutOfRange,
    /// The identity asks more often, or for more, than it may; the message says when to come again. Peer's fault.
    RateLimited,
    /// The optimizer was paused, as when it is revoked; no round updates until another is deployed. Operator's to mend.
    Paused,
    /// The certificate has expired or was revoked since the connection began. The connection is closed after it.
    /// Operator's to mend.
    CertificateInvalid,
    /// The server keeps no such component: nothing of this digest was submitted, or there is none to roll back to.
    /// Peer's fault.
    UnknownComponent,
    /// The worker has registered by another connection. This one is closed after it. Operator's to mend where two
    /// processes have one certificate.
    Replaced,
    /// The certificate is the authority's, but names nobody. The connection is closed after it. Operator's to mend.
    NoIdentity,
    /// A key, a tag or a job is named in a way that names must not be. Peer's fault.
    InvalidName,
    /// An element of a gradient is finite and above the operator's bound. Peer's fault.
    GradientTooLarge,
}

impl ErrorCode {
    /// The code's name as it stands in logs and JSON, such as `wrong-shape`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::ProtocolVersion => "protocol-version",
            Self::OutOfOrder => "out-of-order",
            Self::Forbidden => "forbidden",
            Self::UnknownKey => "unknown-key",
            Self::WrongShape => "wrong-shape",
            Self::WrongElementType => "wrong-element-type",
            Self::WrongLength => "wrong-length",
            Self::WrongRound => "wrong-round",
            Self::NotFinite => "not-finite",
            Self::WorkerLost => "worker-lost",
            Self::TimedOut => "timed-out",
            Self::NoOptimizer => "no-optimizer",
            Self::Untrusted => "untrusted",
            Self::NotAdmitted => "not-admitted",
            Self::Hyperparameter => "hyperparameter",
            Self::OptimizerFailed => "optimizer-failed",
            Self::Busy => "busy",
            Self::Internal => "internal",
            Self::LossMissing => "loss-missing",
            Self::RowOutOfRange => "row-out-of-range",
            Self::RateLimited => "rate-limited",
            Self::Paused => "paused",
            Self::CertificateInvalid => "certificate-invalid",
            Self::UnknownComponent => "unknown-component",
            Self::Replaced => "replaced",
            Self::NoIdentity => "no-identity",
            Self::InvalidName => "invalid-name",
            Self::GradientTooLarge => "gradient-too-large",
        }
    }

    /// Whether the connection ends with this failure, because the receiver cannot tell where the next frame starts or
    /// whether the peer speaks this protocol at all.
    pub const fn closes_connection(self) -> bool {
        matches!(self, Self::Malformed | Self::Oversized | Self::ProtocolVersion | Self::CertificateInvalid)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use serde_test::{Token, assert_tokens};

    use super::*;

    /// The numbers on the wire are the variants' positions, the names are what scripts branch on: neither may change.
    #[test]
    fn error_codes_keep_their_numbers_and_names() {
        let all = [
            ErrorCode::Malformed,
            ErrorCode::Oversized,
            ErrorCode::ProtocolVersion,
            ErrorCode::OutOfOrder,
            ErrorCode::Forbidden,
            ErrorCode::UnknownKey,
            ErrorCode::WrongShape,
            ErrorCode::WrongElementType,
            ErrorCode::WrongLength,
            ErrorCode::WrongRound,
            ErrorCode::NotFinite,
            ErrorCode::WorkerLost,
            ErrorCode::TimedOut,
            ErrorCode::NoOptimizer,
            ErrorCode::Untrusted,
            ErrorCode::NotAdmitted,
            ErrorCode::Hyperparameter,
            ErrorCode::OptimizerFailed,
            ErrorCode::Busy,
            ErrorCode::Internal,
            ErrorCode::LossMissing,
            ErrorCode::RowOutOfRange,
            ErrorCode::RateLimited,
            ErrorCode::Paused,
            ErrorCode::CertificateInvalid,
            ErrorCode::UnknownComponent,
            ErrorCode::Replaced,
            ErrorCode::NoIdentity,
            ErrorCode::InvalidName,
            ErrorCode::GradientTooLarge,
        ];
        for (number, code) in (0_u8..).zip(all) {
            assert_eq!(postcard::to_stdvec(&code), Ok(vec![number]), "{code}");
            assert_tokens(&code, &[Token::UnitVariant { name: "ErrorCode", variant: code.name() }]);
        }
    }

    #[test]
    fn sizes_that_overflow_are_none() {
        let tensor = |shape: &[u64]| TensorType { element: ElementType::F32, shape: shape.to_vec() };
        assert_eq!(tensor(&[]).bytes(), Some(4));
        assert_eq!(TensorType { element: ElementType::F64, shape: vec![3] }.bytes(), Some(24));
        assert_eq!(tensor(&[3, 5]).bytes(), Some(60));
        assert_eq!(tensor(&[1 << 62]).elements(), Some(1 << 62));
        assert_eq!(tensor(&[1 << 62]).bytes(), None);
        assert_eq!(tensor(&[1 << 40, 1 << 40]).elements(), None);
    }
}
