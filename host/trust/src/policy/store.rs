//! The policy in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use crate::{Digest, KeyId, Version, file};

use super::{Publisher, Revocation, Rule, TrustStoreError, TrustedKey, read, rule};

/// A component is at most this large, unless [`TrustStore::with_max_component_bytes`] says otherwise: 16 MiB. An
/// optimizer in Rust has 20 to 200 KiB, languages that bring an interpreter some megabytes; hashing and compiling cost
/// time in proportion, before the sandbox's limits begin.
pub const MAX_COMPONENT_BYTES: usize = 16 << 20;

/// A trust file is at most this large: 1 MiB, room for thousands of publishers and revocations.
pub const MAX_TRUST_FILE_BYTES: usize = 1 << 20;

/// The publishers whose components a server takes, and what it has revoked. [`Default`] trusts nobody.
///
/// ```toml
/// format = 1
/// revoked_keys = [{ key = "0123456789abcdef01234567", reason = "laptop lost", date = 2026-11-02 }]
/// revoked_digests = []                          # as the tools print them
///
/// [minimum_versions]
/// "team-a/adamw" = "1.2.0"
///
/// [[publisher]]
/// name = "Team A"
/// namespaces = ["team-a/*"]                     # names it may use where no rule says more; all where absent
///
/// [[publisher.key]]
/// public_key = "MCowBQYDK2VwAyEA..."            # the base64 line of the .pub file, or the whole PEM
/// valid_until = 2026-12-31
///
/// [[publisher.key]]                             # the next one, with overlap
/// public_key = "MCowBQYDK2VwAyEA..."
/// valid_from = 2026-12-01
///
/// [[publisher]]
/// name = "Release board"
/// public_key = "MCowBQYDK2VwAyEA..."            # the short form for one key
/// namespaces = []
///
/// [[rule]]
/// names = ["team-a/*"]
/// signers = ["Team A", "Release board"]
/// threshold = 2
///
/// [end]                                         # nothing was cut off
/// ```
#[derive(Debug, Clone)]
pub struct TrustStore {
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) keys: BTreeMap<KeyId, TrustedKey>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) revoked_keys: BTreeMap<KeyId, Revocation>,
    pub(crate) revoked_digests: BTreeMap<Digest, Revocation>,
    pub(crate) minimum_versions: BTreeMap<String, Version>,
    pub(crate) max_component_bytes: usize,
}

impl Default for TrustStore {
    fn default() -> Self {
        Self {
            publishers: Vec::new(),
            keys: BTreeMap::new(),
            rules: Vec::new(),
            revoked_keys: BTreeMap::new(),
            revoked_digests: BTreeMap::new(),
            minimum_versions: BTreeMap::new(),
            max_component_bytes: MAX_COMPONENT_BYTES,
        }
    }
}

impl TrustStore {
    /// Reads a trust file.
    ///
    /// # Errors
    /// [`TrustStoreError`] naming the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TrustStoreError> {
        let path = path.as_ref();
        let text = File::open(path)
            .and_then(|file| file::read_text(file, MAX_TRUST_FILE_BYTES))
            .map_err(|source| TrustStoreError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|source| TrustStoreError::File { path: path.to_owned(), source: Box::new(source) })
    }

    /// Reads the text of a trust file.
    ///
    /// # Errors
    /// [`TrustStoreError`] by the first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TrustStoreError> {
        read::read(text)
    }

    /// Sets another limit on a component's size.
    #[must_use]
    pub fn with_max_component_bytes(self, max_component_bytes: usize) -> Self {
        Self { max_component_bytes, ..self }
    }

    /// The rule for a name, with the pattern that made it so.
    pub(crate) fn rule(&self, name: &str) -> Option<(&str, &Rule)> {
        rule::for_name(&self.rules, name).map(|(pattern, rule)| (pattern.as_str(), rule))
    }

    /// The publisher that has this key.
    pub(crate) fn publisher(&self, key: KeyId) -> Option<&Publisher> {
        self.publishers.get(self.keys.get(&key)?.publisher)
    }

    /// Publishers' names.
    pub(crate) fn names<'a>(&self, positions: impl IntoIterator<Item = &'a usize>) -> Vec<String> {
        positions.into_iter().filter_map(|position| self.publishers.get(*position)).map(|p| p.name.clone()).collect()
    }
}
