//! Files whose content nobody but the server may know, judged by who can read and change them.
//!
//! The rules are those of OpenSSH and PostgreSQL. What belongs to the server's own user is for that user alone. Root
//! may hand a secret to a group of the server's, as Kubernetes does with `fsGroup` and Debian with `ssl-cert`, or to its
//! user by an access control list, as systemd does with `LoadCredential`: such a list shows in the group's bits of the
//! mode, which are its mask. Nobody else may own a secret, and it is never for everybody.

use std::fs::File;
use std::io::{self, Read};

/// Longest file with a private key, in bytes: an RSA key of 16384 bits has 13 KiB as PEM.
pub(crate) const MAX_SECRET_FILE_BYTES: usize = 64 << 10;

/// Who owns a secret, and what its mode allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// Others than the server can read or change it.
    Mode(u32),
    /// It belongs to a user that is neither root nor the server's.
    Owner {
        /// The user.
        owner: u32,
        /// The server's.
        user: u32,
    },
}

/// Why a secret is not read.
#[derive(Debug)]
pub(crate) enum SecretFileError {
    /// The system does not give it.
    Io(io::Error),
    /// Others have it, or might.
    Exposed(Exposure),
}

impl From<io::Error> for SecretFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads a secret whose file is for the server alone. What is judged is the file that is read, whatever becomes of its
/// path meanwhile.
pub(crate) fn read(path: &std::path::Path) -> Result<Vec<u8>, SecretFileError> {
    let file = File::open(path)?;
    check(&file)?;
    let mut content = Vec::new();
    file.take(MAX_SECRET_FILE_BYTES as u64 + 1).read_to_end(&mut content)?;
    if content.len() > MAX_SECRET_FILE_BYTES {
        let reason = format!("it has more than {MAX_SECRET_FILE_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason).into());
    }
    Ok(content)
}

#[cfg(unix)]
fn check(file: &File) -> Result<(), SecretFileError> {
    use std::os::unix::fs::MetadataExt;
    let status = file.metadata()?;
    judge(status.uid(), status.mode() & 0o777, rustix::process::geteuid().as_raw()).map_err(SecretFileError::Exposed)
}

#[cfg(not(unix))]
fn check(_: &File) -> Result<(), SecretFileError> {
    Ok(())
}

#[cfg_attr(not(unix), allow(dead_code, reason = "owners and modes are Unix's"))]
fn judge(owner: u32, mode: u32, user: u32) -> Result<(), Exposure> {
    /// What root's secrets may allow: its group reads, and changes nothing.
    const OF_ROOT: u32 = 0o740;
    const OF_SERVER: u32 = 0o700;
    let allowed = match owner {
        0 => OF_ROOT,
        _ if owner == user => OF_SERVER,
        _ => return Err(Exposure::Owner { owner, user }),
    };
    if mode & !allowed == 0 { Ok(()) } else { Err(Exposure::Mode(mode)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u32 = 0;
    const SERVER: u32 = 990;

    #[test]
    fn a_secret_is_judged_by_who_can_read_it() {
        for mode in [0o400, 0o600] {
            assert_eq!(judge(SERVER, mode, SERVER), Ok(()));
            assert_eq!(judge(ROOT, mode, SERVER), Ok(()));
        }
        // A group, or an access control list, which shows in the same bits.
        for mode in [0o440, 0o640] {
            assert_eq!(judge(ROOT, mode, SERVER), Ok(()), "{mode:o}");
            assert_eq!(judge(ROOT, mode, ROOT), Ok(()), "{mode:o}");
            assert_eq!(judge(SERVER, mode, SERVER), Err(Exposure::Mode(mode)), "{mode:o}");
        }
        for mode in [0o404, 0o444, 0o644, 0o604, 0o460, 0o660, 0o620, 0o602, 0o650, 0o601] {
            for owner in [ROOT, SERVER] {
                assert_eq!(judge(owner, mode, SERVER), Err(Exposure::Mode(mode)), "{owner} {mode:o}");
            }
        }
        for user in [ROOT, SERVER] {
            assert_eq!(judge(1000, 0o400, user), Err(Exposure::Owner { owner: 1000, user }));
        }
    }
}
