//! Files that nobody but this process's user can have written.
//!
//! Everything is done relative to the directory's handle, so that a directory moved to its place later is not the one
//! that was checked; symbolic links are never followed; files appear whole or not at all.

use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::CacheError;
use super::entry::{KEY_BYTES, Key};
use crate::error::Miss;

/// How entries' names end.
pub(super) const ENTRY: &str = ".native";

/// How names of files that are being written end.
const TEMPORARY: &str = ".partial";

/// A file that is still being written after this time was left behind by a server that died.
const ABANDONED: Duration = Duration::from_secs(3600);

const KEY: &str = "key";

/// For its owner alone.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The cache's directory, found to be private.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: OwnedFd,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self, CacheError> {
        let failed = |source| CacheError::System { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(CacheError::NotPlain { path: path.to_owned(), expected: "a directory" });
            }
            Err(error) => return Err(failed(error.into())),
        };
        let status = rustix::fs::fstat(&handle).map_err(|error| failed(error.into()))?;
        check_private(path, &status)?;
        Ok(Self { path: path.to_owned(), handle })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The key, made when there is none. Two servers that start at the same time agree on one.
    pub(super) fn key(&self) -> Result<Key, CacheError> {
        let path = self.path.join(KEY);
        let failed = |source: io::Error| CacheError::System { path: path.clone(), source };
        if let Err(Errno::NOENT) = rustix::fs::statat(&self.handle, KEY, AtFlags::SYMLINK_NOFOLLOW) {
            let mut fresh = Zeroizing::new([0; KEY_BYTES]);
            getrandom::fill(&mut fresh[..]).map_err(|error| failed(error.into()))?;
            let temporary = self.write(&fresh[..]).map_err(failed)?;
            // Unlike a renaming, a link does not replace the key of another server that was faster.
            let linked = rustix::fs::linkat(&self.handle, &temporary, &self.handle, KEY, AtFlags::empty());
            let _ = rustix::fs::unlinkat(&self.handle, &temporary, AtFlags::empty());
            match linked {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error.into())),
            }
            rustix::fs::fsync(&self.handle).map_err(|error| failed(error.into()))?;
        }
        let file = match self.open_file(KEY) {
            Ok(file) => file,
            Err(Errno::LOOP) => return Err(CacheError::NotPlain { path, expected: "a file" }),
            Err(error) => return Err(failed(error.into())),
        };
        let status = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(CacheError::NotPlain { path, expected: "a file" });
        }
        check_private(&path, &status)?;
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        if status.st_size != KEY_BYTES as i64 || File::from(file).read_exact(&mut bytes[..]).is_err() {
            return Err(CacheError::DamagedKey { path });
        }
        Ok(Key::new(*bytes))
    }

    /// All of a file, read once; marked as used now.
    pub(super) fn read(&self, name: &str, most_bytes: u64) -> Result<Vec<u8>, Miss> {
        let unreadable = |error: Errno| Miss::Unreadable(io::Error::from(error).to_string());
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(Miss::Absent),
            Err(error) => return Err(unreadable(error)),
        };
        let status = rustix::fs::fstat(&file).map_err(unreadable)?;
        let bytes = u64::try_from(status.st_size).unwrap_or(u64::MAX);
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile || bytes > most_bytes {
            return Err(Miss::NotAnEntry);
        }
        // What is used last is removed last. If the file is not ours to touch, it will go earlier.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let _ = rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now });
        let mut content = Vec::with_capacity(bytes as usize + 1);
        let read = File::from(file).take(most_bytes + 1).read_to_end(&mut content);
        read.map_err(|error| Miss::Unreadable(error.to_string()))?;
        if content.len() as u64 > most_bytes { Err(Miss::NotAnEntry) } else { Ok(content) }
    }

    /// Puts a file in the place of whatever has this name. A crash leaves the old one or the new one.
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.write(content)?;
        let renamed = rustix::fs::renameat(&self.handle, &temporary, &self.handle, name);
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&self.handle, &temporary, AtFlags::empty());
        }
        renamed?;
        Ok(rustix::fs::fsync(&self.handle)?)
    }

    /// Removes entries, those first that were not used for the longest time, until as many and as much are left as may be.
    pub(super) fn prune(&self, most_entries: usize, most_bytes: u64) -> io::Result<()> {
        let mut entries: Vec<(Duration, u64, CString)> = Vec::new();
        for file in Dir::read_from(&self.handle)? {
            let file = file?;
            let name = file.file_name();
            // Another server may have removed it since.
            let Ok(status) = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let seconds = u64::try_from(status.st_mtime).unwrap_or(0);
            let used = Duration::new(seconds, u32::try_from(status.st_mtime_nsec).unwrap_or(0));
            if name.to_bytes().ends_with(ENTRY.as_bytes()) {
                entries.push((used, u64::try_from(status.st_size).unwrap_or(u64::MAX), name.to_owned()));
            } else if name.to_bytes().ends_with(TEMPORARY.as_bytes()) {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                if now.saturating_sub(used) > ABANDONED {
                    self.remove(name)?;
                }
            }
        }
        entries.sort_by(|one, other| other.cmp(one));
        let mut total = 0_u64;
        for (position, (_, bytes, name)) in entries.into_iter().enumerate() {
            total = total.saturating_add(bytes);
            if position >= most_entries || total > most_bytes {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &std::ffi::CStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn open_file(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        // Without NONBLOCK a pipe in the file's place would be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.handle, name, flags, Mode::empty())
    }

    /// Writes a new file, for its owner alone, on disk when this returns. Gives its name.
    fn write(&self, content: &[u8]) -> io::Result<String> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let name = format!("{:016x}{TEMPORARY}", u64::from_le_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.handle, &name, flags, PRIVATE)?);
        let written = file.write_all(content).and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&self.handle, &name, AtFlags::empty());
        }
        written.map(|()| name)
    }
}

/// Whether this process's user, and nobody else, owns it and can get at it.
fn check_private(path: &Path, status: &Stat) -> Result<(), CacheError> {
    let user = rustix::process::geteuid().as_raw();
    if status.st_uid != user {
        return Err(CacheError::Foreign { path: path.to_owned(), owner: status.st_uid, user });
    }
    match status.st_mode & 0o777 {
        mode if mode & 0o077 != 0 => Err(CacheError::Exposed { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}
