//! The section `[process]`: what the server's process gives up when it starts.
//!
//! The server itself does none of it: whoever owns the process does, as `stepbox serve` does, before it starts threads
//! and after it listens.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Config;

/// The section `[process]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// Whether it may run as root.
    pub allow_root: bool,
    /// What is given up.
    pub sandbox: ProcessSandbox,
    /// Directories that the server may read besides those of the files that it is configured with: those between which
    /// a symbolic link is switched while the server runs.
    pub read_directories: Vec<PathBuf>,
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

/// A path that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredPath {
    /// The field that names it, such as `tls.ca`.
    pub field: String,
    /// The path, in which relative ones have been resolved.
    pub path: PathBuf,
}

impl ConfiguredPath {
    fn new(field: impl Into<String>, path: &Path) -> Self {
        Self { field: field.into(), path: path.to_owned() }
    }
}

impl Config {
    /// Files that are read when the server starts or later. An editor puts a new file in the old one's place, so their
    /// folders matter.
    pub fn files_read(&self) -> Vec<ConfiguredPath> {
        let tls = &self.tls;
        let mut files = vec![
            ConfiguredPath::new("tls.ca", &tls.ca),
            ConfiguredPath::new("tls.certificate", &tls.certificate),
            ConfiguredPath::new("tls.key", &tls.key),
            ConfiguredPath::new("trust.store", &self.trust.store),
        ];
        files.extend(tls.revocation_lists.iter().map(|list| ConfiguredPath::new("tls.revocation_lists", list)));
        let named = self.jobs.iter().map(|(name, job)| (format!("jobs.{name}"), job));
        for (section, job) in named.chain(self.job.iter().map(|job| ("job".to_owned(), job))) {
            files.extend(
                job.trust.iter().map(|trust| ConfiguredPath::new(format!("{section}.trust.store"), &trust.store)),
            );
        }
        files
    }

    /// Directories that are read in addition to those of files.
    pub fn directories_read(&self) -> Vec<ConfiguredPath> {
        let directories = self.process.read_directories.iter();
        directories.map(|directory| ConfiguredPath::new("process.read_directories", directory)).collect()
    }

    /// Directories that are written to.
    pub fn directories_written(&self) -> Vec<ConfiguredPath> {
        let mut directories = vec![ConfiguredPath::new("state_directory", &self.state_directory)];
        if self.audit.enabled {
            let field = if self.audit.directory.is_some() { "audit.directory" } else { "state_directory" };
            directories.push(ConfiguredPath::new(field, &self.audit.directory_in(&self.state_directory)));
        }
        let cache = self.cache.directory.as_ref().filter(|_| self.cache.enabled);
        directories.extend(cache.map(|directory| ConfiguredPath::new("cache.directory", directory)));
        directories
    }
}

/// Why a file cannot be read, and what to do where the process's own sandbox may be the reason.
pub(crate) fn unreadable(error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::PermissionDenied || !cfg!(target_os = "linux") {
        return error.to_string();
    }
    format!(
        "{error}. Either its owner and mode keep the server's user out, or Landlock does: a running server reads only \
         in the folders that the configured paths led to when it started. Where a symbolic link was switched, restart \
         the server, and name the folder above the link's targets in process.read_directories"
    )
}
