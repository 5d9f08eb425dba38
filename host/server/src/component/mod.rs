//! Signed components on disk, and the trust file that says whose are accepted.

mod archive;
mod files;
mod index;
mod trust_file;

use std::sync::Arc;

use parking_lot::Mutex;
use stepbox_trust::VersionLedger;
use tokio::sync::Semaphore;

use crate::config::JobSettings;

pub use archive::MAX_PREVIOUS_DEPLOYMENTS;
pub(crate) use archive::{Archive, FOLDER as ARCHIVE_FOLDER, FileLease, INDEX_PATH as ARCHIVE_INDEX, Shown};
pub(crate) use index::{Kept, check_options};
pub(crate) use trust_file::{FileChange, TrustFile};

/// A job's archive of signed components, its version ledger and its trust file.
pub(crate) struct Components {
    pub ledger: Mutex<VersionLedger>,
    /// Components to go back to, and those submitted.
    pub archive: Mutex<Archive>,
    /// Those to go back to.
    pub previous: Shown,
    /// The trust file.
    pub trust: TrustFile,
    /// One submission at a time: each holds a component and compiles it. Beside deployments: whoever may only submit must
    /// not be able to hold up a rollback.
    pub submitting: Arc<Semaphore>,
}

impl Components {
    /// Opens the archive and reads the trust file of a job with these settings.
    pub fn open(config: &JobSettings, ledger: VersionLedger) -> Self {
        let archive = Archive::open(&config.state_directory);
        Self {
            ledger: Mutex::new(ledger),
            previous: archive.shown(),
            archive: Mutex::new(archive),
            trust: TrustFile::new(&config.trust, &config.limits),
            submitting: Arc::new(Semaphore::new(1)),
        }
    }
}
