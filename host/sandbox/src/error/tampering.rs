//! What is said of an optimizer that has changed something outside its own steps.

use thiserror::Error;

/// An optimizer has changed something outside the steps it was given for it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "optimizer {optimizer} has changed {what} of key `{key}` outside the key's own steps ({place} of the slice from \
     element {slice_start} on); found {found}. Nothing of it was used; deploy another optimizer"
)]
pub struct Tampering {
    /// The optimizer's name.
    pub optimizer: String,
    /// The tensor's name.
    pub key: String,
    /// The slice's first element in the tensor.
    pub slice_start: u64,
    /// `the parameters`, or the slot.
    pub what: String,
    /// Where in the slice.
    pub place: TamperedPart,
    /// When it was found.
    pub found: Found,
}

/// Where in a slice something was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TamperedPart {
    /// In what all of the slice shares.
    #[error("in what is shared by all")]
    Shared,
    /// In what belongs to this chunk of 4096 elements, counted from the slice's first.
    #[error("in chunk {0}")]
    Chunk(u64),
    /// In this row, counted from the slice's first.
    #[error("in row {0}")]
    Row(u64),
}

/// How it was found that something was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Found {
    /// Before a step of the slice itself.
    #[error("before the key's next step")]
    BeforeStep,
    /// When it was to be read.
    #[error("when it was to be read")]
    Reading,
    /// Right after a step.
    #[error("right after step {step} of key `{key}` (the slice from element {slice_start} on)")]
    AfterStep {
        /// Whose step.
        key: String,
        /// The first element of the slice that was stepped.
        slice_start: u64,
        /// The step's number.
        step: u64,
    },
    /// Right after a step that failed.
    #[error("right after step {step} of key `{key}` (the slice from element {slice_start} on), which failed")]
    AfterFailure {
        /// Whose step.
        key: String,
        /// The first element of the slice that was stepped.
        slice_start: u64,
        /// The step's number.
        step: u64,
    },
}
