//! Why a measurement was not possible.

use std::io;
use std::path::PathBuf;

use stepbox_client::ClientError;
use stepbox_sandbox::{SandboxError, SettingsError, StepError};
use thiserror::Error;

/// Why a measurement was not possible.
#[derive(Debug, Error)]
pub enum BenchError {
    /// A component is not where components are looked for.
    #[error(
        "cannot read {}: {source}; run `cargo xtask guests` in a clone of the repository, or name the folder that has the \
         components with `--components`",
        path.display()
    )]
    NoComponent {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The component was not admitted, or got no room.
    #[error("{0}")]
    Sandbox(#[from] SandboxError),
    /// Its default hyperparameters are not acceptable.
    #[error("{0}")]
    Settings(#[from] SettingsError),
    /// A step failed.
    #[error("{0}")]
    Step(#[from] StepError),
    /// There is no memory for numbers.
    #[error("no memory: {0}")]
    Memory(#[from] io::Error),
    /// What is measured over the wire does not work.
    #[error("{0}")]
    Wire(#[from] crate::wire::MeasurementError),
    /// An optimizer cannot be admitted.
    #[error("{0}")]
    Admission(#[from] crate::admission::AdmissionError),
    /// Gradients cannot be reduced.
    #[error("{0}")]
    Reduce(#[from] stepbox_reduce::ReduceError),
    /// The component that copies lists does not work.
    #[error("the component that copies lists: {0}")]
    ListCopying(String),
    /// Two runs that should compute the same do not, so that their times say nothing.
    #[error("{what} ended with other bits than {other}, so that their times cannot be compared")]
    OtherBits {
        /// One of them.
        what: String,
        /// The other.
        other: String,
    },
    /// The author's native program does not do what it is told.
    #[error("the native program of {}: {reason}", folder.display())]
    NativeCrate {
        /// The crate.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A program that a measurement needs failed.
    #[error("{program}: {reason}")]
    Program {
        /// Its name and arguments.
        program: String,
        /// What it said last.
        reason: String,
    },
    /// The server did not do what it was asked.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// Something of the system does not work.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// What the system said.
        source: io::Error,
    },
}

impl BenchError {
    /// Makes an error of what the system said.
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }
}
