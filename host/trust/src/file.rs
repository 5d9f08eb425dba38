//! Bounded reading, and the two ways to write a file: create a new one, or replace an old one. Either way a crash or a
//! full disk leaves what was there before or all of the new content, never a part.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Mode of a file that only its owner may read.
pub const PRIVATE_MODE: u32 = 0o600;

/// Mode of a file that everybody may read.
pub const PUBLIC_MODE: u32 = 0o644;

/// Reads text of at most `limit` bytes; more, or no UTF-8, is [`io::ErrorKind::InvalidData`].
pub(crate) fn read_text(file: impl Read, limit: usize) -> io::Result<String> {
    // All at once: a text that grows leaves copies behind, and this reads secret keys too.
    let mut text = String::with_capacity(limit + 1);
    file.take(limit as u64 + 1).read_to_string(&mut text)?;
    if text.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {limit} bytes")));
    }
    Ok(text)
}

/// Creates a file that does not exist: written beside its place under a name that nobody can guess, synced, linked to
/// its name, and the directory synced. On a file system without hard links the file is written in its place, and removed
/// if that fails; there a crash can leave a part.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if there is something of that name, also a link to nothing. Any other error of the
/// file system; then there is no file.
pub fn create_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let temporary = beside(path, &format!(".{:016x}.tmp", u64::from_le_bytes(random)))?;
    // What exists is found before a full disk is: the caller then knows that nothing needs to be written.
    if fs::symlink_metadata(path).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    write_new(&temporary, content, mode)?;
    let linked = fs::hard_link(&temporary, path);
    // The content has its name by now, or goes.
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => {}
        Err(error) if has_no_links(&error) => write_new(path, content, mode)?,
        Err(error) => return Err(error),
    }
    sync_directory_of(path)
}

/// Replaces a file, or creates it: written beside it, for its owner alone, synced, renamed over it, and the directory
/// synced. Links are replaced and never followed. The file beside it has its name and `.tmp`; one that a crash has left
/// there is removed.
///
/// # Errors
/// The path names no file, or the file system refuses one of these steps; then the old content is there.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = beside(path, ".tmp")?;
    // Left behind by a crash, or laid there. What is created anew follows no link.
    let _ = fs::remove_file(&temporary);
    write_new(&temporary, content, PRIVATE_MODE)?;
    if let Err(error) = fs::rename(&temporary, path) {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory_of(path)
}

fn beside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut temporary: OsString = name.to_owned();
    temporary.push(suffix);
    Ok(path.with_file_name(temporary))
}

/// Writes and syncs a file that did not exist; removes it if that fails.
#[cfg_attr(not(unix), expect(unused_variables, reason = "modes are Unix's"))]
fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let mut file = options.open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        // The error that matters is the one above.
        let _ = fs::remove_file(path);
    }
    written
}

/// FAT, and some file systems in user space and over networks, answer so to `link`.
fn has_no_links(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn links_are_replaced_and_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("other"), "theirs").expect("written");
        for name in ["ledger", "ledger.tmp"] {
            symlink(path("other"), path(name)).expect("a link");
        }
        replace_file(&path("ledger"), b"ours").expect("replaced");
        assert_eq!(fs::read(path("ledger")).expect("it is there"), b"ours");
        assert_eq!(mode(&path("ledger")), 0o600);
        assert_eq!(fs::read(path("other")).expect("it is there"), b"theirs");
    }

    #[test]
    fn what_exists_is_not_created_again_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        create_file(&path("key"), b"ours", PRIVATE_MODE).expect("created");
        create_file(&path("key.pub"), b"everybody's", PUBLIC_MODE).expect("created");
        symlink(path("nowhere"), path("link")).expect("a link");
        for name in ["key", "link"] {
            let error = create_file(&path(name), b"other", PRIVATE_MODE).expect_err("it exists");
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}");
        }
        assert_eq!(fs::read(path("key")).expect("it is there"), b"ours");
        assert_eq!((mode(&path("key")), mode(&path("key.pub"))), (0o600, 0o644));
        assert!(!path("nowhere").exists());
        create_file(Path::new("/no/such/directory/key"), b"", PRIVATE_MODE).expect_err("no such directory");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 3, "no temporary file is left");
    }
}
