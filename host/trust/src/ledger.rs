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
/// One server owns the file. A missing file is an empty ledger; one that is damaged, empty or cut off is an error. The
/// last line says how many names there are. To forget an entry on purpose, stop the server, remove the entry from the
/// file and correct that line.
#[derive(Debug)]
pub struct VersionLedger {
    path: PathBuf,
    deployed: BTreeMap<String, Entry>,
}

/// The last line of a ledger's file: the beginning of a ledger must not pass for a whole one. A comment, since every
/// table's name can be an optimizer's.
fn end_mark(names: usize) -> String {
    format!("# end of ledger: {names} names")
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: Version,
    digest: Digest,
    /// What was the highest before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Release>,
    /// What took effect last, where that is not the highest: after a rollback, and while the highest is recorded but has
    /// not taken effect, as after a crash in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_force: Option<Release>,
}

impl Entry {
    fn highest(&self) -> Release {
        Release { version: self.version.clone(), digest: self.digest }
    }
}

/// A version, and its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    version: Version,
    digest: Digest,
}

impl Release {
    fn of(component: &VerifiedComponent) -> Self {
        Self { version: component.manifest().version.clone(), digest: component.digest() }
    }
}

/// A deployment that is recorded and has not taken effect yet: see [`VersionLedger::record`].
#[derive(Debug)]
#[must_use = "what was recorded takes effect or is withdrawn"]
pub struct Intent {
    name: String,
    release: Release,
    /// The entry as it was.
    before: Option<Entry>,
}

impl VersionLedger {
    /// Reads the ledger.
    ///
    /// # Errors
    /// [`LedgerError::Read`], [`LedgerError::Malformed`] and [`LedgerError::Incomplete`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LedgerError> {
        let path = path.as_ref().to_owned();
        let text = match File::open(&path).and_then(|file| file::read_text(file, MAX_LEDGER_BYTES)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, deployed: BTreeMap::new() });
            }
            Err(source) => return Err(LedgerError::Read { path, source }),
        };
        let deployed: BTreeMap<String, Entry> = match toml::from_str(&text) {
            Ok(deployed) => deployed,
            Err(source) => return Err(LedgerError::Malformed { path, source }),
        };
        let end_mark = end_mark(deployed.len());
        if text.trim_end().lines().next_back() != Some(&*end_mark) {
            return Err(LedgerError::Incomplete { path, names: deployed.len(), end_mark });
        }
        Ok(Self { path, deployed })
    }

    /// Whether this component may be deployed after what was deployed before: a name not seen yet, a higher version,
    /// or the very content that was deployed with this version, which must be the highest or the one that took effect
    /// last. So a version that was rolled back to can be deployed again after a restart, and so can the version that was
    /// in force when a later one was recorded and never took effect.
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
            Ordering::Less if deployed.in_force.as_ref() == Some(&Release::of(component)) => Ok(()),
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
        let release = Release::of(component);
        let entry = self.deployed.get(&component.manifest().name);
        entry.is_some_and(|entry| entry.highest() == release || entry.earlier.contains(&release))
    }

    /// Records that a component which was deployed is about to take over again, so that it is not forgotten before those
    /// deployed between; on disk when this returns. The highest version stays what it is.
    ///
    /// # Errors
    /// [`LedgerError::Write`]; the ledger is then as before.
    pub fn record_rollback(&mut self, component: &VerifiedComponent) -> Result<Intent, LedgerError> {
        let (name, release) = (component.manifest().name.clone(), Release::of(component));
        let before = self.deployed.get(&name).cloned();
        let mut deployed = self.deployed.clone();
        if let Some(entry) = deployed.get_mut(&name)
            && let Some(place) = entry.earlier.iter().position(|earlier| *earlier == release)
        {
            entry.earlier[..=place].rotate_right(1);
        }
        self.write(deployed)?;
        Ok(Intent { name, release, before })
    }

    /// Checks once more and records that the component is about to be deployed; on disk when this returns. Record before
    /// activating, so that a crash in between forgets nothing: afterwards the recorded content can be deployed, the one
    /// that was in force, and versions above both.
    ///
    /// # Errors
    /// [`LedgerError`]; the ledger is then as before.
    pub fn record(&mut self, component: &VerifiedComponent) -> Result<Intent, LedgerError> {
        self.check(component)?;
        let (name, release) = (component.manifest().name.clone(), Release::of(component));
        let before = self.deployed.get(&name).cloned();
        let intent = Intent { name: name.clone(), release: release.clone(), before };
        let mut entry = Entry { version: release.version, digest: release.digest, earlier: Vec::new(), in_force: None };
        if let Some(before) = &intent.before {
            // The highest, or what was gone back to: there is nothing new to remember.
            if before.version.cmp_precedence(&entry.version) != Ordering::Less {
                return Ok(intent);
            }
            entry.in_force = Some(before.in_force.clone().unwrap_or_else(|| before.highest()));
            entry.earlier.push(before.highest());
            entry.earlier.extend_from_slice(&before.earlier);
            entry.earlier.truncate(MAX_EARLIER_VERSIONS);
        }
        let mut deployed = self.deployed.clone();
        deployed.insert(name, entry);
        if deployed.len() > MAX_LEDGER_NAMES {
            return Err(LedgerError::Full { path: self.path.clone() });
        }
        self.write(deployed)?;
        Ok(intent)
    }

    /// Records that what was intended has taken effect.
    ///
    /// # Errors
    /// [`LedgerError::Write`]. The ledger in memory knows it all the same. The file says what it says after a crash
    /// before this call, and lets no version be deployed that it would not let be deployed otherwise, but for the one
    /// that was in force before.
    pub fn took_effect(&mut self, intent: Intent) -> Result<(), LedgerError> {
        let Intent { name, release, .. } = intent;
        let mut deployed = self.deployed.clone();
        if let Some(entry) = deployed.get_mut(&name) {
            entry.in_force = (entry.version.cmp_precedence(&release.version) != Ordering::Equal).then_some(release);
        }
        self.write_regardless(deployed)
    }

    /// Takes back what was intended and has not taken effect: the ledger is as it was before it was recorded.
    ///
    /// # Errors
    /// [`LedgerError::Write`]. The ledger in memory is as before all the same; the file still has what was intended.
    pub fn withdraw(&mut self, intent: Intent) -> Result<(), LedgerError> {
        let Intent { name, before, .. } = intent;
        let mut deployed = self.deployed.clone();
        match before {
            Some(before) => deployed.insert(name, before),
            None => deployed.remove(&name),
        };
        self.write_regardless(deployed)
    }

    /// Writes what is so whether or not it can be written. What cannot be written is written with the next change.
    fn write_regardless(&mut self, deployed: BTreeMap<String, Entry>) -> Result<(), LedgerError> {
        let outcome = self.write(deployed.clone());
        self.deployed = deployed;
        outcome
    }

    fn write(&mut self, deployed: BTreeMap<String, Entry>) -> Result<(), LedgerError> {
        if deployed == self.deployed {
            return Ok(());
        }
        let write_error = |source| LedgerError::Write { path: self.path.clone(), source };
        let text = toml::to_string(&deployed).map_err(|error| write_error(io::Error::other(error)))?;
        let text = format!(
            "# Highest version of each optimizer that was deployed, and those before it. Written by stepbox.\n\n{text}\n{}\n",
            end_mark(deployed.len())
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
    /// The last line is missing or has another count.
    #[error(
        "version ledger {} does not end with the line `{end_mark}` for the {names} names in it: it was cut off, or \
         edited, and without all entries old versions could be deployed again. Restore it from a backup. If it is \
         complete (edited on purpose, or written by a Stepbox that wrote no such line), make that its last line",
        path.display()
    )]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// The names in it.
        names: usize,
        /// The line it should end with.
        end_mark: String,
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
