//! The two things done with files: bounded reading and atomic replacement.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

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

/// Replaces a file so that a crash at any moment leaves the old content or the new, never a part: written beside it, for
/// its owner alone, synced, renamed over it, and the directory synced. Links are replaced and never followed. The file beside
/// it has its name and `.tmp`; one that a crash has left there is removed.
///
/// # Errors
/// The path names no file, or the file system refuses one of these steps; then the old content is there.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut temporary_name = name.to_owned();
    temporary_name.push(".tmp");
    let temporary = path.with_file_name(temporary_name);
    // Left behind by a crash, or laid there. What is created anew follows no link.
    let _ = fs::remove_file(&temporary);

    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = (|| {
        let mut file = options.open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The error that matters is the one above.
        let _ = fs::remove_file(&temporary);
    }
    written?;

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
        assert_eq!(fs::symlink_metadata(path("ledger")).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(path("other")).expect("it is there"), b"theirs");
    }
}
