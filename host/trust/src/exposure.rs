//! Whether others than the process's user can read or replace a file with a secret.

use std::fs::File;
use std::io;

/// How a file with a secret is open to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Others than its owner have access, by these permission bits.
    Mode(u32),
    /// It belongs to another user than root and the one of this process.
    Owner {
        /// The file's owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
}

/// Looks at the opened file, not at a path: nobody can swap the file in between.
///
/// # Errors
/// The system does not say.
#[cfg(unix)]
pub fn exposure(file: &File) -> io::Result<Option<Exposure>> {
    use std::os::unix::fs::MetadataExt;
    let status = file.metadata()?;
    let (mode, owner, user) = (status.mode() & 0o777, status.uid(), rustix::process::geteuid().as_raw());
    if owner != user && owner != 0 {
        return Ok(Some(Exposure::Owner { owner, user }));
    }
    Ok((mode & 0o077 != 0).then_some(Exposure::Mode(mode)))
}

/// Modes and owners are Unix's.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn exposure(_: &File) -> io::Result<Option<Exposure>> {
    Ok(None)
}
