//! Reads and writes the archive's files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use stepbox_trust::replace_file;

/// Reads a file, and nothing else: a pipe in its place could keep the reader waiting for ever.
pub(super) fn read_plain_file(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("this is no plain file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        return Err(io::Error::other(format!("this file has more than {most_bytes} bytes")));
    }
    Ok(bytes)
}

/// Writes a file for its owner alone, so that a crash at any moment leaves what was there before or all of it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut making = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut making, 0o700);
    making.recursive(true).create(path.parent().unwrap_or(Path::new(".")))?;
    replace_file(path, bytes)
}
