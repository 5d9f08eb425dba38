//! What compiling a component took too much of.

use std::fmt;

/// What a component that took too much to compile took too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompileLimit {
    /// Memory.
    Memory {
        /// What a worker may have.
        bytes: u64,
    },
    /// Processor time.
    ProcessorTime {
        /// What a worker may have.
        seconds: u64,
    },
    /// Wall-clock time.
    Deadline {
        /// What a worker may have.
        milliseconds: u64,
    },
    /// Native code.
    Code {
        /// How much it may be.
        bytes: u64,
    },
    /// The compiler's stack, which is not configured: what is nested so deep was written to overflow it.
    Stack,
}

impl fmt::Display for CompileLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { bytes } => write!(formatter, "more memory than compiler.memory_bytes = {bytes}"),
            Self::ProcessorTime { seconds } => {
                write!(formatter, "more processor time than compiler.processor_seconds = {seconds}")
            }
            Self::Deadline { milliseconds } => {
                write!(formatter, "longer than compiler.deadline_milliseconds = {milliseconds}")
            }
            Self::Code { bytes } => write!(formatter, "more native code than compiler.code_bytes = {bytes}"),
            Self::Stack => formatter.write_str("more stack than the compiler has"),
        }
    }
}
