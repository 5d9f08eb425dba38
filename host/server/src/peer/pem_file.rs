//! PEM files of the configuration, and why they cannot be used.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use stepbox_tls::pem;
use thiserror::Error;

use crate::config::unreadable;

/// Why the server has no TLS to offer. The operator's to mend.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM file cannot be read or holds nothing of the kind.
    #[error("cannot read {what} from {}: {reason}", path.display())]
    Pem {
        /// `the authority's certificates`, say.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Others than the server can read or change the private key.
    #[error("the server's private key {} has mode {mode:04o}, and others than the server can use it: run `chmod 600` \
             on it, or `chmod 640` where it belongs to root and the server's group is to read it. Have a new \
             certificate issued if somebody else could use this machine", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions. An access control list shows in the group's.
        mode: u32,
    },
    /// The private key is another user's, who can read and replace it.
    #[error("the server's private key {} belongs to user {owner}, and the server runs as user {user}: run `chown \
             {user}` on it, or give it to root and let the server's group read it (mode 0640)", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// The server's user.
        user: u32,
    },
    /// The files can be read, but do not fit together.
    #[error("the TLS configuration does not hold together: {0}")]
    Unusable(String),
}

/// A file as it was read.
pub(super) struct PemFile {
    pub what: &'static str,
    pub path: PathBuf,
    pub content: Vec<u8>,
    /// Certificates or lists in it.
    pub blocks: usize,
}

impl PemFile {
    pub fn read(what: &'static str, path: &Path) -> Result<Self, TlsError> {
        let wrong = |error: std::io::Error| TlsError::Pem { what, path: path.to_owned(), reason: unreadable(&error) };
        Ok(Self { what, path: path.to_owned(), content: pem::read(path).map_err(wrong)?, blocks: 0 })
    }

    pub fn wrong(&self, reason: &dyn Display) -> TlsError {
        TlsError::Pem { what: self.what, path: self.path.clone(), reason: reason.to_string() }
    }
}

/// All certificates of a PEM file, of which there must be one. It may have the private key too.
pub(super) fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = PemFile::read(what, path)?;
    pem::certificate_chain(&file.content).map_err(|error| file.wrong(&error))
}
