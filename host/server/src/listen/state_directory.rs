//! The state directory: what decides which versions may be deployed, and what can be gone back to, is nobody else's to
//! write.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a state directory is not used. The operator's to mend.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// It cannot be made or looked at.
    #[error("cannot use the state directory {}: {source}", path.display())]
    System {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another server uses it.
    #[error(
        "another server uses the state directory {}: stop that server, or give this one a `state_directory` of its own",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Others can write to it.
    #[error(
        "{path} is the server's state and has mode {mode:04o}: others could write old versions or other components into \
         it. Look whether they have, then run `chmod go-w {path}`",
        path = path.display()
    )]
    Exposed {
        /// What.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is another user's, who can write to it.
    #[error(
        "{path} is the server's state and belongs to user {owner}, and the server runs as user {user}: run it as that \
         user, or look at what is there and run `chown -R {user} {path}`",
        path = path.display()
    )]
    Foreign {
        /// What.
        path: PathBuf,
        /// Whose.
        owner: u32,
        /// The server's user.
        user: u32,
    },
}

/// File in the state directory that its server holds locked.
const LOCK_FILE: &str = "server.lock";

/// Keeps other servers out of a state directory. The system gives the lock back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

impl StateLock {
    /// Locks a directory that is prepared. Each of two servers would take its own ledger for the newest, and overwrite
    /// the other's.
    pub fn take(directory: &Path) -> Result<Self, StateError> {
        let path = directory.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|source| StateError::System { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::InUse { path: directory.to_owned() }),
            Err(fs::TryLockError::Error(source)) => Err(StateError::System { path, source }),
        }
    }
}

/// Makes a directory, for its owner alone, where it is not there, and checks it and those of `parts` in it that are there:
/// that nobody but this process's user, and root, can write to them.
pub(crate) fn prepare(directory: &Path, parts: &[&str]) -> Result<(), StateError> {
    let failed = |source| StateError::System { path: directory.to_owned(), source };
    let mut making = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut making, 0o700);
    making.recursive(true).create(directory).map_err(failed)?;
    check(directory)?;
    parts.iter().try_for_each(|part| check(&directory.join(part)))
}

#[cfg(unix)]
fn check(path: &Path) -> Result<(), StateError> {
    use std::os::unix::fs::MetadataExt;
    let status = match fs::metadata(path) {
        Ok(status) => status,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(StateError::System { path: path.to_owned(), source }),
    };
    let (path, owner, user) = (path.to_owned(), status.uid(), rustix::process::geteuid().as_raw());
    if owner != user && owner != 0 {
        return Err(StateError::Foreign { path, owner, user });
    }
    match status.mode() & 0o777 {
        mode if mode & 0o022 != 0 => Err(StateError::Exposed { path, mode }),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn check(_: &Path) -> Result<(), StateError> {
    Ok(())
}
