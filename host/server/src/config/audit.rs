//! The section `[audit]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use stepbox_audit::MIN_FILE_BYTES;

/// Bytes of an audit file that is followed by a new one: some hundred thousand lines, seconds to verify.
pub const DEFAULT_AUDIT_FILE_BYTES: u64 = 64 << 20;

/// Audit files that are kept, 1 GiB in all: months of a server that nobody attacks. Ship them elsewhere to have them
/// for longer.
pub const DEFAULT_AUDIT_FILES: usize = 16;

/// Most audit files; more are a matter for whoever archives them.
pub const MAX_AUDIT_FILES: usize = 10_000;

/// The section `[audit]`: who did what, in files in which nothing can be changed without anybody noticing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Whether there is such a log.
    pub enabled: bool,
    /// Where; `audit` in the state directory where absent.
    pub directory: Option<PathBuf>,
    /// How the server is called in it; as in its certificate where absent.
    pub server: Option<String>,
    /// What happens where it cannot be written.
    pub on_failure: OnAuditFailure,
    /// See [`DEFAULT_AUDIT_FILE_BYTES`].
    pub file_bytes: u64,
    /// See [`DEFAULT_AUDIT_FILES`].
    pub files: usize,
}

/// What happens where the audit log cannot be written. Training goes on in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnAuditFailure {
    /// What would change what the server does, a deployment or a schedule, is refused.
    #[default]
    RefuseChanges,
    /// Everything goes on; what is not recorded is counted.
    Continue,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            directory: None,
            server: None,
            on_failure: OnAuditFailure::default(),
            file_bytes: DEFAULT_AUDIT_FILE_BYTES,
            files: DEFAULT_AUDIT_FILES,
        }
    }
}

impl AuditConfig {
    /// Where the log is, given the state directory.
    pub fn directory_in(&self, state_directory: &Path) -> PathBuf {
        self.directory.clone().unwrap_or_else(|| state_directory.join("audit"))
    }

    /// What cannot be meant: the field and why.
    pub(crate) fn wrong(&self) -> Option<(&'static str, String)> {
        if self.file_bytes < MIN_FILE_BYTES {
            Some(("audit.file_bytes", format!("must be at least {MIN_FILE_BYTES}")))
        } else if !(2..=MAX_AUDIT_FILES).contains(&self.files) {
            Some(("audit.files", format!("must be 2 to {MAX_AUDIT_FILES}")))
        } else {
            None
        }
    }
}
