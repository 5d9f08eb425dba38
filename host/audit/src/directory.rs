//! The files of a log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::AuditError;

/// Which line is the newest that is safely on disk, signed, beside the files: an anchor that the server keeps itself.
pub const HEAD_FILE: &str = "audit.head";

/// The key that signatures are checked with, beside the files.
pub const PUBLIC_KEY_FILE: &str = "audit.pub";

/// Locked by the process that writes.
const LOCK_FILE: &str = "audit.lock";

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";

/// The log's files in a directory, oldest first.
///
/// # Errors
/// [`AuditError::File`] where the directory cannot be read, [`AuditError::NoLog`] where none is there.
pub fn files_of(directory: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let files: Vec<_> = numbered(directory)?.into_iter().map(|number| path_of(directory, number)).collect();
    if files.is_empty() { Err(AuditError::NoLog { path: directory.to_owned() }) } else { Ok(files) }
}

/// The numbers of the files, ascending.
pub(crate) fn numbered(directory: &Path) -> Result<Vec<u64>, AuditError> {
    let read = || {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(directory)? {
            numbers.extend(entry?.file_name().to_str().and_then(number_of));
        }
        numbers.sort_unstable();
        Ok(numbers)
    };
    read().map_err(AuditError::file("read", directory))
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let number = digits.parse().ok()?;
    // No second name for the same number.
    (name_of(number) == name).then_some(number)
}

fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:06}{SUFFIX}")
}

pub(crate) fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(name_of(number))
}

/// Makes the directory where it is not there, for the server's own user alone.
pub(crate) fn make(directory: &Path) -> Result<(), AuditError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(AuditError::file("make", directory))
}

/// Keeps other processes from writing to this log for as long as the file is open.
pub(crate) fn lock(directory: &Path) -> Result<File, AuditError> {
    let path = directory.join(LOCK_FILE);
    let file = private(OpenOptions::new().create(true).append(true)).open(&path);
    let file = file.map_err(AuditError::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(AuditError::InUse { path: directory.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(AuditError::File { what: "lock", path, source }),
    }
}

/// A new file, to be appended to and read.
pub(crate) fn begin(directory: &Path, number: u64) -> io::Result<File> {
    let file = private(OpenOptions::new().create_new(true).append(true).read(true)).open(path_of(directory, number))?;
    // The file is there; whether its name survives a power failure is not worth losing lines for.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(file)
}

/// A file that is there, to be appended to and read.
pub(crate) fn go_on(path: &Path) -> Result<File, AuditError> {
    OpenOptions::new().append(true).read(true).open(path).map_err(AuditError::file("open", path))
}

/// Whether both are of the same file.
#[cfg(unix)]
pub(crate) fn is_same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Where files cannot be told apart, whatever has the name is the file.
#[cfg(not(unix))]
pub(crate) fn is_same_file(_: &fs::Metadata, other: &fs::Metadata) -> bool {
    other.is_file()
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// The end of a file, at most `limit` bytes, and whether that is all of it.
pub(crate) fn end_of(file: &mut File, limit: u64) -> io::Result<(Vec<u8>, bool)> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(limit);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes, start == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_numbers() {
        assert_eq!(number_of("audit-000012.jsonl"), Some(12));
        assert_eq!(number_of(&name_of(12_345_678)), Some(12_345_678));
        for name in
            ["audit-12.jsonl", "audit-000012.jsonl.gz", "audit-00000x.jsonl", "audit.head", "audit-+00012.jsonl"]
        {
            assert_eq!(number_of(name), None, "{name}");
        }
    }

    #[test]
    fn one_process_at_a_time_writes_to_a_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = lock(folder.path()).expect("the lock");
        assert!(matches!(lock(folder.path()), Err(AuditError::InUse { .. })));
        drop(first);
        assert!(lock(folder.path()).is_ok());
    }
}
