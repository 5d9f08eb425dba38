//! The two things done with files: bounded reading and atomic replacement.

use std::fs::{self, File};
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

/// Replaces a file so that a crash at any moment leaves the old content or the new, never a part: written beside it,
/// synced, renamed over it, and the directory synced.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut temporary_name = name.to_owned();
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary_name);

    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The error that matters is the one above; a left-over file is overwritten next time.
        let _ = fs::remove_file(&temporary);
    }
    written?;

    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}
