//! Whom a server trusts, and the check that turns bytes into a [`VerifiedComponent`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;

use crate::manifest::MANIFEST_SECTION;
use crate::section::{self, Truncated};
use crate::signature::{DELIMITER_SECTION, SIGNATURE_SECTION, SignedFile};
use crate::{Digest, KeyId, Manifest, PublicKey, TrustError, file};

/// A component is at most this large, unless [`TrustStore::with_max_component_bytes`] says otherwise: 16 MiB. An
/// optimizer in Rust has 20 to 200 KiB, languages that bring an interpreter some megabytes; hashing and compiling cost
/// time in proportion, before the sandbox's limits begin.
pub const MAX_COMPONENT_BYTES: usize = 16 << 20;

/// A trust file is at most this large: 1 MiB, room for thousands of publishers and revocations.
pub const MAX_TRUST_FILE_BYTES: usize = 1 << 20;

/// The publishers whose components a server takes, and what it has revoked. [`Default`] trusts nobody.
///
/// ```toml
/// revoked_keys = ["0123456789abcdef01234567"]   # key ids
/// revoked_digests = []                          # SHA-256 of signed files, or the hashes in their signatures
///
/// [[publisher]]
/// name = "Example Institute"
/// public_key = "MCowBQYDK2VwAyEA..."            # the base64 line of the .pub file, or the whole PEM
/// optimizers = ["adamw", "example-*"]           # names it may use; all where absent
/// ```
#[derive(Debug, Clone)]
pub struct TrustStore {
    publishers: BTreeMap<KeyId, Publisher>,
    revoked_keys: BTreeSet<KeyId>,
    revoked_digests: BTreeSet<Digest>,
    max_component_bytes: usize,
}

#[derive(Debug, Clone)]
struct Publisher {
    name: String,
    key: PublicKey,
    /// Names and, ending in `*`, beginnings of names; `None` for all.
    optimizers: Option<Vec<String>>,
}

impl Publisher {
    fn allows(&self, name: &str) -> bool {
        self.optimizers.as_ref().is_none_or(|patterns| {
            patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == pattern,
            })
        })
    }

    fn allowed(&self) -> String {
        match self.optimizers.as_deref() {
            None => "any name".to_owned(),
            Some([]) => "no name at all".to_owned(),
            Some(patterns) => format!("`{}`", patterns.join("`, `")),
        }
    }
}

impl Default for TrustStore {
    fn default() -> Self {
        Self {
            publishers: BTreeMap::new(),
            revoked_keys: BTreeSet::new(),
            revoked_digests: BTreeSet::new(),
            max_component_bytes: MAX_COMPONENT_BYTES,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreText {
    #[serde(default)]
    publisher: Vec<PublisherText>,
    #[serde(default)]
    revoked_keys: BTreeSet<KeyId>,
    #[serde(default)]
    revoked_digests: BTreeSet<Digest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublisherText {
    name: String,
    public_key: String,
    optimizers: Option<Vec<String>>,
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
    /// [`TrustStoreError`]: no TOML of this form, a key that is none, a key listed twice, a pattern with a `*` other
    /// than at its end.
    pub fn parse(text: &str) -> Result<Self, TrustStoreError> {
        let text: StoreText = toml::from_str(text).map_err(TrustStoreError::Toml)?;
        let mut store =
            Self { revoked_keys: text.revoked_keys, revoked_digests: text.revoked_digests, ..Self::default() };
        for PublisherText { name, public_key, optimizers } in text.publisher {
            let Ok(key) = public_key.parse::<PublicKey>() else {
                return Err(TrustStoreError::Key { publisher: name });
            };
            let misplaced = |pattern: &&String| pattern.find('*').is_some_and(|position| position + 1 != pattern.len());
            if let Some(pattern) = optimizers.iter().flatten().find(misplaced) {
                return Err(TrustStoreError::Pattern { pattern: pattern.clone(), publisher: name });
            }
            let id = key.id();
            let publisher = Publisher { name, key, optimizers };
            if let Some(other) = store.publishers.insert(id, publisher) {
                return Err(TrustStoreError::Duplicate { key: id, publisher: other.name });
            }
        }
        Ok(store)
    }

    /// Sets another limit on a component's size.
    #[must_use]
    pub fn with_max_component_bytes(self, max_component_bytes: usize) -> Self {
        Self { max_component_bytes, ..self }
    }

    /// Verifies a signed component.
    ///
    /// The checks come in this order: size, structure of the signature section, key revoked, key known, signature,
    /// digest revoked, manifest, name allowed. Nothing behind the signature section is looked at before the signature
    /// has been verified.
    ///
    /// # Errors
    /// [`TrustError`], by the first check that fails.
    pub fn verify(&self, file: impl Into<Arc<[u8]>>) -> Result<VerifiedComponent, TrustError> {
        self.verify_at(file, SystemTime::now())
    }

    /// Verifies a signed component as of another time than now.
    ///
    /// # Errors
    /// As from [`verify`](Self::verify).
    pub fn verify_at(&self, file: impl Into<Arc<[u8]>>, now: SystemTime) -> Result<VerifiedComponent, TrustError> {
        let bytes: Arc<[u8]> = file.into();
        if bytes.len() > self.max_component_bytes {
            return Err(TrustError::TooLarge { bytes: bytes.len(), limit: self.max_component_bytes });
        }
        let signed = SignedFile::parse(&bytes)?;
        let key = signed.key;
        if self.revoked_keys.contains(&key) {
            return Err(TrustError::RevokedKey { key });
        }
        let publisher = self.publishers.get(&key).ok_or(TrustError::UnknownKey { key })?;
        if !publisher.key.verifies(&signed.message(), &signed.signature) || Digest::of(signed.content) != signed.hash {
            return Err(TrustError::BadSignature { key, publisher: publisher.name.clone() });
        }
        let digest = Digest::of(&bytes);
        if let Some(digest) = [digest, signed.hash].into_iter().find(|digest| self.revoked_digests.contains(digest)) {
            return Err(TrustError::RevokedDigest { digest });
        }
        let manifest = read_manifest(&signed)?;
        let component =
            VerifiedComponent { publisher_name: publisher.name.clone(), content: signed.hash, manifest, digest, bytes };
        self.recheck(&component, now)?;
        Ok(component)
    }

    /// Checks once more what a server has verified before, against what is trusted now: keys, digests, names. The bytes
    /// are not hashed again. Cheap enough to do for everything that runs whenever the trust file changes.
    ///
    /// # Errors
    /// [`TrustError`] as from [`verify_at`](Self::verify_at).
    pub fn recheck(&self, component: &VerifiedComponent, _now: SystemTime) -> Result<(), TrustError> {
        let key = component.manifest.publisher;
        if self.revoked_keys.contains(&key) {
            return Err(TrustError::RevokedKey { key });
        }
        let publisher = self.publishers.get(&key).ok_or(TrustError::UnknownKey { key })?;
        let digests = [component.digest, component.content];
        if let Some(digest) = digests.into_iter().find(|digest| self.revoked_digests.contains(digest)) {
            return Err(TrustError::RevokedDigest { digest });
        }
        let name = &component.manifest.name;
        if publisher.allows(name) {
            return Ok(());
        }
        Err(TrustError::NameNotAllowed {
            name: name.clone(),
            publisher: publisher.name.clone(),
            allowed: publisher.allowed(),
        })
    }
}

/// Finds and reads the manifest: the first section behind the signature, and the only one of its name.
pub(crate) fn read_manifest(signed: &SignedFile<'_>) -> Result<Manifest, TrustError> {
    let malformed = |reason: String| TrustError::MalformedManifest { reason };
    let mut sections = section::sections(signed.content);
    let content = match sections.next() {
        Some(Ok(section::Section { custom: Some((MANIFEST_SECTION, content)), .. })) => content,
        _ => {
            return Err(malformed(format!("no `{MANIFEST_SECTION}` section stands behind the signature")));
        }
    };
    for section in sections {
        let section = section
            .map_err(|Truncated| TrustError::NotAComponent { reason: "a section does not end within the file" })?;
        if section.is_named(MANIFEST_SECTION) {
            return Err(malformed("there is a second one".to_owned()));
        }
        if section.is_named(SIGNATURE_SECTION) || section.is_named(DELIMITER_SECTION) {
            return Err(TrustError::MalformedSignature {
                reason: "there is a second `signature` section, or a `signature_delimiter`",
            });
        }
    }
    let manifest = Manifest::decode(content).map_err(|error| malformed(error.to_string()))?;
    if manifest.publisher != signed.key {
        return Err(malformed(format!(
            "it names key {} as the publisher's, but the signature is of key {}",
            manifest.publisher, signed.key
        )));
    }
    Ok(manifest)
}

/// A component signed by a publisher the server trusts. Only [`TrustStore::verify`] makes one, and the bytes in it are
/// the ones that were verified.
#[derive(Clone)]
pub struct VerifiedComponent {
    bytes: Arc<[u8]>,
    manifest: Manifest,
    publisher_name: String,
    digest: Digest,
    content: Digest,
}

impl VerifiedComponent {
    /// The signed file. It is a component as it stands: a runtime skips signature and manifest as custom sections.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Name, version and publisher.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The key that signed it.
    pub fn publisher(&self) -> &KeyId {
        &self.manifest.publisher
    }

    /// What the trust store calls the owner of that key.
    pub fn publisher_name(&self) -> &str {
        &self.publisher_name
    }

    /// Every key whose signature was verified, in the order of their ids.
    pub fn signers(&self) -> &[KeyId] {
        std::slice::from_ref(&self.manifest.publisher)
    }

    /// SHA-256 of the whole signed file.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl std::fmt::Debug for VerifiedComponent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("VerifiedComponent")
            .field("manifest", &self.manifest)
            .field("publisher_name", &self.publisher_name)
            .field("digest", &self.digest)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// What can be wrong with a trust file. The operator's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustStoreError {
    /// The file cannot be read.
    #[error("cannot read trust file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file can be read, but is not right.
    #[error("trust file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<TrustStoreError>,
    },
    /// No TOML, or not of this form.
    #[error("not a trust file: {0}")]
    Toml(toml::de::Error),
    /// A public key is none.
    #[error(
        "`public_key` of publisher {publisher} is no Ed25519 public key: give the base64 line of the `.pub` file \
         that `stepbox key new` wrote"
    )]
    Key {
        /// The publisher.
        publisher: String,
    },
    /// A pattern has its `*` elsewhere than at the end.
    #[error("`{pattern}` in `optimizers` of publisher {publisher}: a `*` may only stand at the end")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The publisher.
        publisher: String,
    },
    /// Two publishers have the same key.
    #[error("key {key} of publisher {publisher} is listed twice: keep one of the two")]
    Duplicate {
        /// The key.
        key: KeyId,
        /// The publisher listed first.
        publisher: String,
    },
}
