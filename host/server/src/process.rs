//! The section `[process]`: what the server's process gives up when it starts.
//!
//! The server itself does none of it: whoever owns the process does, as `stepbox serve` does, before it starts threads
//! and after it listens.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::Config;

/// The section `[process]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// Whether it may run as root.
    pub allow_root: bool,
    /// What is given up.
    pub sandbox: ProcessSandbox,
}

/// Whether the process is confined to its own files and to the system calls it needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessSandbox {
    /// It is, or it does not start.
    Require,
    /// As far as the kernel can.
    #[default]
    Try,
    /// It is not.
    Off,
}

impl Config {
    /// Files that are read when it starts or later. Who edits one puts a new file in its place, so their folders matter.
    pub fn files_read(&self) -> Vec<&Path> {
        let jobs = self.job.iter().chain(self.jobs.values());
        let stores = jobs.filter_map(|job| job.trust.as_ref()).chain([&self.trust]).map(|trust| &trust.store);
        self.tls.files().chain(stores).map(PathBuf::as_path).collect()
    }

    /// Directories that are written to.
    pub fn directories_written(&self) -> Vec<PathBuf> {
        let mut directories = vec![self.state_directory.clone()];
        if self.audit.enabled {
            directories.push(self.audit.directory_in(&self.state_directory));
        }
        directories.extend(self.cache.directory.clone().filter(|_| self.cache.enabled));
        directories
    }
}
