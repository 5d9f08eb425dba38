//! Which versions were deployed, against going back to one with a known weakness.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Digest, TrustError, VerifiedComponent, Version, file};

/// A ledger remembers at most this many optimizer names, so that nobody with a trusted key can fill the disk.
pub const MAX_LEDGER_NAMES: usize = 4096;

/// A ledger file is at most this large: 2 MiB, above what [`MAX_LEDGER_NAMES`] entries take.
pub const MAX_LEDGER_BYTES: usize = 2 << 20;

/// The highest version of each optimizer name that was deployed, kept in a TOML file.
///
/// One server owns the file. A missing file is an empty ledger; a damaged one is an error, never an empty ledger. To
/// forget an entry on purpose, stop the server and remove the entry from the file.
#[derive(Debug)]
pub struct VersionLedger {
    path: PathBuf,
    deployed: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: Version,
    digest: Digest,
}

impl VersionLedger {
    /// Reads the ledger.
    ///
    /// # Errors
    /// [`LedgerError::Read`] and [`LedgerError::Malformed`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LedgerError> {
        let path = path.as_ref().to_owned();
        let text = match File::open(&path).and_then(|file| file::read_text(file, MAX_LEDGER_BYTES)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(LedgerError::Read { path, source }),
        };
        match toml::from_str(&text) {
            Ok(deployed) => Ok(Self { path, deployed }),
            Err(source) => Err(LedgerError::Malformed { path, source }),
        }
    }

    /// Whether this component may be deployed after what was deployed before: a name not seen yet, a higher version,
    /// or the very content that was deployed with this version.
    ///
    /// # Errors
    /// [`TrustError::Downgrade`] and [`TrustError::VersionReused`].
    pub fn check(&self, component: &VerifiedComponent) -> Result<(), TrustError> {
        let manifest = component.manifest();
        let Some(deployed) = self.deployed.get(&manifest.name) else {
            return Ok(());
        };
        match manifest.version.cmp_precedence(&deployed.version) {
            Ordering::Greater => Ok(()),
            // Ledgers of the time when a component had one signature remember the digest of the file.
            Ordering::Equal if [component.digest(), component.file_digest()].contains(&deployed.digest) => Ok(()),
            Ordering::Equal => Err(TrustError::VersionReused {
                name: manifest.name.clone(),
                version: Box::new(manifest.version.clone()),
                offered: component.digest(),
                deployed: deployed.digest,
            }),
            Ordering::Less => Err(TrustError::Downgrade {
                name: manifest.name.clone(),
                offered: manifest.version.clone(),
                deployed: deployed.version.clone(),
            }),
        }
    }

    /// Checks once more and remembers the component as deployed; on disk when this returns. Record before activating,
    /// so that a crash in between forgets nothing.
    ///
    /// # Errors
    /// [`LedgerError`]; the ledger is then as before.
    pub fn record(&mut self, component: &VerifiedComponent) -> Result<(), LedgerError> {
        self.check(component)?;
        let manifest = component.manifest();
        let entry = Entry { version: manifest.version.clone(), digest: component.digest() };
        if self.deployed.get(&manifest.name) == Some(&entry) {
            return Ok(());
        }
        let mut deployed = self.deployed.clone();
        deployed.insert(manifest.name.clone(), entry);
        if deployed.len() > MAX_LEDGER_NAMES {
            return Err(LedgerError::Full { path: self.path.clone() });
        }
        let write_error = |source| LedgerError::Write { path: self.path.clone(), source };
        let text = toml::to_string(&deployed).map_err(|error| write_error(io::Error::other(error)))?;
        let text = format!("# Highest version of each optimizer that was deployed. Written by stepbox.\n\n{text}");
        file::replace(&self.path, text.as_bytes()).map_err(write_error)?;
        self.deployed = deployed;
        Ok(())
    }
}

/// What can go wrong with a ledger. The operator's to mend, but for [`LedgerError::Refused`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The component may not be deployed.
    #[error(transparent)]
    Refused(#[from] TrustError),
    /// The file cannot be read.
    #[error("cannot read version ledger {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is damaged.
    #[error(
        "version ledger {} is damaged: {source}. Restore it from a backup; without it old versions could be deployed \
         again",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: toml::de::Error,
    },
    /// The file cannot be written.
    #[error("cannot write version ledger {}, so nothing is deployed: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The ledger has as many names as it may.
    #[error(
        "version ledger {} has {MAX_LEDGER_NAMES} names already: stop the server and remove those no longer used",
        path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
    },
}
