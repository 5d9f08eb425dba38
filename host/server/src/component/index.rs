//! The archive's index: which components were deployed and submitted.

use serde::{Deserialize, Serialize};
use stepbox_wire::{DeployOptions, OptimizerStatus, SubmissionStatus};

/// Options of a deployment as the index has them: 2 MiB. On the wire they have at most 1 MiB, and escaping what nobody has
/// a use for, such as control characters, makes six times as much of it.
pub(super) const MAX_OPTIONS_BYTES: usize = 2 << 20;

/// A component as it was deployed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub optimizer: OptimizerStatus,
    pub options: DeployOptions,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Index {
    /// The newest first: what took effect last, then what did before.
    pub deployed: Vec<Kept>,
    /// In order of submission.
    pub submitted: Vec<SubmissionStatus>,
}

impl Index {
    /// The last line of its file, so that the beginning of an index does not pass for a whole one.
    pub fn end_mark(&self) -> String {
        format!("# end of index: {} deployed, {} submitted", self.deployed.len(), self.submitted.len())
    }
}

/// Whether options can stand in the index, or why not.
pub(crate) fn check_options(options: &DeployOptions) -> Result<(), String> {
    let text = toml::to_string(options).map_err(|error| format!("the options cannot be kept: {error}"))?;
    if text.len() > MAX_OPTIONS_BYTES {
        return Err(format!(
            "the options cannot be kept: as TOML they have {} of {MAX_OPTIONS_BYTES} bytes",
            text.len()
        ));
    }
    match toml::from_str::<DeployOptions>(&text) {
        Ok(read) if read == *options => Ok(()),
        Ok(_) => Err("the options cannot be kept: read again they are others".to_owned()),
        Err(error) => Err(format!("the options cannot be kept: {}", error.message())),
    }
}
