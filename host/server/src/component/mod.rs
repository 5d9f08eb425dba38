//! Signed components on disk, and the trust file that says whose are accepted.

mod archive;
mod trust_file;

pub use archive::MAX_PREVIOUS_DEPLOYMENTS;
pub(crate) use archive::{
    Archive, FOLDER as ARCHIVE_FOLDER, FileLease, INDEX_PATH as ARCHIVE_INDEX, Kept, Shown, check_options,
};
pub(crate) use trust_file::{FileChange, Trust};
