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

/// Versions below the highest that are remembered of each name, the newest first: what a rollback may go back to. One
/// more than the server keeps components for.
pub const MAX_EARLIER_VERSIONS: usize = 4;

/// A ledger file is at most this large: 8 MiB, above what [`MAX_LEDGER_NAMES`] names with all their versions take.
pub const MAX_LEDGER_BYTES: usize = 8 << 20;

/// The highest version of each optimizer name that was deployed, and some before it, kept in a TOML file.
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
    /// What was the highest before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Earlier>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Earlier {
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

    /// Whether this very file was deployed before, as the highest version of its name or as one of the
    /// [`MAX_EARLIER_VERSIONS`] before that. For a rollback, which may go below the highest version but to nothing that
    /// was not deployed.
    pub fn was_deployed(&self, component: &VerifiedComponent) -> bool {
        let manifest = component.manifest();
        let is_it = |version: &Version, digest| *version == manifest.version && digest == component.digest();
        self.deployed.get(&manifest.name).is_some_and(|entry| {
            is_it(&entry.version, entry.digest)
                || entry.earlier.iter().any(|earlier| is_it(&earlier.version, earlier.digest))
        })
    }

    /// Remembers that a component which was deployed takes over again, so that it is not forgotten before those deployed
    /// between; on disk when this returns. The highest version stays what it is.
    ///
    /// # Errors
    /// [`LedgerError::Write`]; the ledger is then as before.
    pub fn record_rollback(&mut self, component: &VerifiedComponent) -> Result<(), LedgerError> {
        let mut deployed = self.deployed.clone();
        if let Some(entry) = deployed.get_mut(&component.manifest().name)
            && let Some(place) = entry.earlier.iter().position(|earlier| earlier.digest == component.digest())
        {
            entry.earlier[..=place].rotate_right(1);
        }
        self.write(deployed)
    }

    /// Checks once more and remembers the component as deployed; on disk when this returns. Record before activating,
    /// so that a crash in between forgets nothing.
    ///
    /// # Errors
    /// [`LedgerError`]; the ledger is then as before.
    pub fn record(&mut self, component: &VerifiedComponent) -> Result<(), LedgerError> {
        self.check(component)?;
        let manifest = component.manifest();
        let (version, digest) = (manifest.version.clone(), component.digest());
        let mut earlier = Vec::new();
        if let Some(before) = self.deployed.get(&manifest.name) {
            if (&before.version, before.digest) == (&version, digest) {
                return Ok(());
            }
            earlier.push(Earlier { version: before.version.clone(), digest: before.digest });
            earlier.extend_from_slice(&before.earlier);
            earlier.truncate(MAX_EARLIER_VERSIONS);
        }
        let entry = Entry { version, digest, earlier };
        let mut deployed = self.deployed.clone();
        deployed.insert(manifest.name.clone(), entry);
        if deployed.len() > MAX_LEDGER_NAMES {
            return Err(LedgerError::Full { path: self.path.clone() });
        }
        self.write(deployed)
    }

    /// Removes what [`record`](Self::record) has just added for a component that did not take effect after all; on disk
    /// when this returns. Changes nothing unless the component is the highest version of its name.
    ///
    /// # Errors
    /// [`LedgerError::Write`]; the ledger is then as before.
    pub fn retract(&mut self, component: &VerifiedComponent) -> Result<(), LedgerError> {
        let manifest = component.manifest();
        let mut deployed = self.deployed.clone();
        if let Some(entry) = deployed.get_mut(&manifest.name)
            && (&entry.version, entry.digest) == (&manifest.version, component.digest())
        {
            if entry.earlier.is_empty() {
                deployed.remove(&manifest.name);
            } else {
                let Earlier { version, digest } = entry.earlier.remove(0);
                (entry.version, entry.digest) = (version, digest);
            }
        }
        self.write(deployed)
    }

    fn write(&mut self, deployed: BTreeMap<String, Entry>) -> Result<(), LedgerError> {
        if deployed == self.deployed {
            return Ok(());
        }
        let write_error = |source| LedgerError::Write { path: self.path.clone(), source };
        let text = toml::to_string(&deployed).map_err(|error| write_error(io::Error::other(error)))?;
        let text = format!(
            "# Highest version of each optimizer that was deployed, and those before it. Written by stepbox.\n\n{text}"
        );
        file::replace_file(&self.path, text.as_bytes()).map_err(write_error)?;
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
