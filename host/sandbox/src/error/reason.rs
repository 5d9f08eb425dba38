//! A stable name for each way in which a component can fail. The matches have no arm for all the rest: what is new needs
//! a name of its own.

use super::{CallFailure, CompileLimit, Forbidden, SandboxError, StepError};

impl SandboxError {
    /// A stable name for logs, metrics and scripts, such as `forbidden-import`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LimitOutOfRange { .. } => "limit-out-of-range",
            Self::Engine(_) => "engine",
            Self::Forbidden(forbidden) => forbidden.name(),
            Self::Invalid(_) => "invalid-component",
            Self::CompileLimit(limit) => limit.name(),
            Self::CompilerKilled(_) => "compiler-killed",
            Self::Compiler(_) => "compiler",
            Self::NoContract { .. } => "no-contract",
            Self::ForbiddenImport { .. } => "forbidden-import",
            Self::Oversized { .. } => "declares-too-much",
            Self::Description(_) => "bad-description",
            Self::Plan { .. } => "bad-plan",
            Self::Offset { .. } => "bad-offset",
            Self::NotDeterministic => "not-deterministic",
            Self::Entangled { .. } => "entangled",
            Self::SliceTooLarge { .. } => "slice-too-large",
            Self::PreparationFuel { .. } => "preparation-fuel",
            Self::PreparationTime { .. } => "preparation-time",
            Self::Call(error) => error.failure.name(),
            Self::Trial(error) => error.name(),
            Self::Tampered(_) => "tampered",
        }
    }
}

impl StepError {
    /// A stable name for logs, metrics and scripts, such as `not-finite-output`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Call(error) => error.failure.name(),
            Self::GradientNotFinite { .. } => "not-finite-gradient",
            Self::NotFinite { .. } => "not-finite-output",
            Self::Tampered(_) => "tampered",
            Self::Interrupted => "interrupted",
            Self::NotRevived(error) => error.name(),
        }
    }
}

impl CallFailure {
    /// A stable name for logs, metrics and scripts, such as `out-of-fuel`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::OutOfFuel { .. } => "out-of-fuel",
            Self::Deadline { .. } => "deadline",
            Self::Memory { .. } => "memory-limit",
            Self::TotalMemory { .. } => "total-memory-limit",
            Self::Table { .. } => "table-limit",
            Self::StackOverflow { .. } => "stack-overflow",
            Self::Trap { .. } => "trap",
            Self::Product(_) => "matrix-product",
            Self::Refused(_) => "optimizer-refused",
            Self::Other(_) => "call-failed",
        }
    }
}

impl Forbidden {
    /// A stable name for logs, metrics and scripts, such as `start-function`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotAComponent => "not-a-component",
            Self::Feature { .. } => "forbidden-feature",
            Self::Invalid { .. } => "invalid-component",
            Self::StartFunction { .. } => "start-function",
            Self::TooMany { .. } => "too-many",
        }
    }
}

impl CompileLimit {
    /// A stable name for logs, metrics and scripts, such as `compile-memory`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "compile-memory",
            Self::ProcessorTime { .. } => "compile-time",
            Self::Deadline { .. } => "compile-deadline",
            Self::Code { .. } => "compiled-code",
            Self::Stack => "compile-stack",
        }
    }
}
