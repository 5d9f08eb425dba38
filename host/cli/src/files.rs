//! Reading and writing files with errors that name them.

use std::fmt;
#[cfg(test)]
use std::fs;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use stepbox_trust::{Exposure, PUBLIC_MODE, create_file, exposure};

use crate::output::Failure;

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    read_open(file, path, limit)
}

/// Reads text of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: usize) -> Result<String, Failure> {
    String::from_utf8(read(path, limit)?).map_err(|_| unreadable(path, &"it is not text"))
}

/// Reads a secret text, which nobody but its owner may read.
pub(crate) fn read_private_text(path: &Path, limit: usize) -> Result<String, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let shown = path.display();
    let reason = match exposure(&file).map_err(|error| unreadable(path, &error))? {
        None => None,
        Some(Exposure::Mode(mode)) => Some(format!(
            "{shown} has mode {mode:04o}: others may have read it. Run `chmod 600 {shown}`, and make a new one if somebody \
             else could use this machine"
        )),
        Some(Exposure::Owner { owner, user }) => Some(format!(
            "{shown} belongs to user {owner}, and this process runs as user {user}: run it as that user, or run \
             `chown {user} {shown}` and make a new one if that user is somebody else"
        )),
    };
    if let Some(reason) = reason {
        return Err(Failure::here("file", reason));
    }
    String::from_utf8(read_open(file, path, limit)?).map_err(|_| unreadable(path, &"it is not text"))
}

fn read_open(file: File, path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() > limit {
        return Err(unreadable(path, &format!("it has more than {limit} bytes; is it the right file?")));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, reason: &dyn fmt::Display) -> Failure {
    Failure::here("file", format!("cannot read {}: {reason}", path.display()))
}

/// Creates a file that does not exist: all of it, or nothing.
pub(crate) fn create_new(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    create_file(path, content, mode).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::here(
            "exists",
            format!("{} exists and is not overwritten: remove it or choose another name", path.display()),
        ),
        _ => Failure::here("file", format!("cannot write {}: {error}", path.display())),
    })
}

/// Writes a file, or replaces the one that is there, at once: nobody ever sees a part of it. What it is written to
/// first has a name that nobody can know before, since the folder may be others' too.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::here("file", format!("cannot write {}: {error}", path.display()));
    let name = path
        .file_name()
        .ok_or_else(|| cannot(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file")))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(name).suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(PUBLIC_MODE));
    let mut temporary = builder.tempfile_in(folder).map_err(cannot)?;
    temporary.write_all(content).and_then(|()| temporary.as_file().sync_all()).map_err(cannot)?;
    temporary.persist(path).map_err(|error| cannot(error.error))?;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn links_are_replaced_and_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("other"), "theirs").expect("written");
        let predictable = format!("list.pem.{}.tmp", std::process::id());
        for name in ["list.pem", &predictable] {
            std::os::unix::fs::symlink(path("other"), path(name)).expect("a link");
        }
        assert!(replace(&path("list.pem"), b"ours").is_ok());
        assert_eq!(fs::read(path("list.pem")).expect("it is there"), b"ours");
        assert_eq!(fs::read(path("other")).expect("it is there"), b"theirs");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 3, "nothing is left behind");
    }
}
