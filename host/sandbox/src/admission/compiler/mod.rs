//! Where components are compiled: in this process, or by a broker of processes whose memory and time are limited.
//!
//! A compiler's memory and time are no simple function of its input, and whoever may have something compiled could choose
//! the input. So a server starts a *broker* ([`Broker`]) before it does anything else: the same program, which does
//! nothing but start a *worker* for each component, hand it the bytes, and end it when it takes too much. A worker limits
//! itself before it reads a byte, and gives up whatever its program knows how to give up ([`compile_process`]); it has no
//! environment, no descriptors but its three pipes, and compiles one component.
//!
//! What comes back is native code that will be run. Against a compiler that a component has taken over all this protects
//! the machine beside the sandbox, not the sandbox. What may reach the compiler at all is decided before ([`allow_list`]).
//!
//! [`allow_list`]: crate::admission::allow_list

mod broker;
mod descriptors;
mod protocol;
mod supervisor;
mod terms;
mod timed;
mod worker;

use std::fmt;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use broker::Compiled;
pub use broker::{Broker, BrokerError};

/// Address space of a worker, in bytes. The largest of our own optimizers needs 46 MiB, of which 36 are the program itself;
/// a component of several megabytes, with an interpreter in it, fits too.
pub const DEFAULT_COMPILER_MEMORY_BYTES: u64 = 1 << 30;

/// Processor time of a worker, in seconds. Our own optimizers take a fifth of a second.
pub const DEFAULT_COMPILER_PROCESSOR_SECONDS: u64 = 30;

/// Wall-clock time of a worker, in milliseconds: twice its processor time, for a machine that is busy.
pub const DEFAULT_COMPILER_DEADLINE_MILLISECONDS: u64 = 60_000;

/// Native code of a component, in bytes. Our own optimizers have half a megabyte; no more than the cache would keep.
pub const DEFAULT_COMPILER_CODE_BYTES: u64 = 256 << 20;

/// The least address space that can be set: less would refuse what nobody wants refused.
pub const MIN_COMPILER_MEMORY_BYTES: u64 = 64 << 20;

/// The longest time that can be set, a week: longer is a typing error.
const MAX_COMPILER_SECONDS: u64 = 7 * 86_400;

/// First argument of the program that makes it a broker.
pub(crate) const BROKER_VERB: &str = "compile-broker";

/// First argument of the program that makes it a worker.
pub(crate) const WORKER_VERB: &str = "compile-worker";

/// What compiling a component may take. See the constants of this module for the reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompilerLimits {
    /// Address space, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in seconds.
    pub processor_seconds: u64,
    /// Wall-clock time, in milliseconds.
    pub deadline_milliseconds: u64,
    /// Native code, in bytes.
    pub code_bytes: u64,
}

impl Default for CompilerLimits {
    fn default() -> Self {
        Self {
            memory_bytes: DEFAULT_COMPILER_MEMORY_BYTES,
            processor_seconds: DEFAULT_COMPILER_PROCESSOR_SECONDS,
            deadline_milliseconds: DEFAULT_COMPILER_DEADLINE_MILLISECONDS,
            code_bytes: DEFAULT_COMPILER_CODE_BYTES,
        }
    }
}

impl CompilerLimits {
    /// A limit that is out of range, with its value and the range.
    pub fn out_of_range(&self) -> Option<(&'static str, u64, RangeInclusive<u64>)> {
        [
            ("memory_bytes", self.memory_bytes, MIN_COMPILER_MEMORY_BYTES..=i64::MAX as u64),
            ("processor_seconds", self.processor_seconds, 1..=MAX_COMPILER_SECONDS),
            ("deadline_milliseconds", self.deadline_milliseconds, 1..=1000 * MAX_COMPILER_SECONDS),
            ("code_bytes", self.code_bytes, 1..=i64::MAX as u64),
        ]
        .into_iter()
        .find(|(_, value, range)| !range.contains(value))
    }
}

/// What becomes of a component where the process that is to compile it cannot give up what its program knows how to give
/// up. Its limits hold in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Confinement {
    /// It is compiled all the same.
    #[default]
    Try,
    /// It is not compiled.
    Require,
}

impl Confinement {
    fn name(self) -> &'static str {
        match self {
            Self::Try => "try",
            Self::Require => "require",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Try, Self::Require].into_iter().find(|confinement| confinement.name() == name)
    }
}

/// Who compiles for a [`Sandbox`](crate::Sandbox).
#[derive(Debug, Clone, Default)]
pub enum Compiler {
    /// The sandbox's own process: for programs that compile only what they trust, such as tests and measurements. Nothing
    /// bounds what it takes.
    #[default]
    InProcess,
    /// A process for each component, with limits.
    Broker(Arc<Broker>),
}

impl fmt::Display for Compiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::InProcess => "this process, without limits",
            Self::Broker(_) => "a process for each component, with limits",
        })
    }
}

/// Makes this process a broker or a worker, if its first argument says so, and gives its exit code when it is done.
///
/// A program that starts a [`Broker`] of its own executable must call this first of all in `main`, while there is one
/// thread and no file is open. A worker calls `confine` before it reads anything, once its limits are set: from then on it
/// needs its pipes, memory that is not executable, a clock and an end. `confine` says what it has given up, or why it could
/// not give up all that it should: then [`Confinement`] decides, and [`Broker::probe`] tells.
pub fn compile_process(confine: impl FnOnce() -> Result<String, String>) -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next()?;
    if verb == BROKER_VERB {
        Some(supervisor::run(arguments))
    } else if verb == WORKER_VERB {
        Some(worker::run(arguments, confine))
    } else {
        None
    }
}
