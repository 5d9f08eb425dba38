//! What a publisher says a component is: name, version, publisher. It stands in a custom section of its own, right
//! behind the signature and covered by it.

use serde::{Deserialize, Serialize};

use crate::section;
use crate::unseen::{is_unseen, printable};
use crate::{KeyId, Version};

/// Name of the custom section that holds the manifest.
pub const MANIFEST_SECTION: &str = "stepbox:manifest";

/// A manifest is at most this long: longest name, longest version and key id in JSON have less than half of it.
pub const MAX_MANIFEST_BYTES: usize = 512;

/// A name is at most this long, so that it fits in a log line and a table.
pub const MAX_NAME_BYTES: usize = 64;

/// A version's text is at most this long, for the same reason.
pub const MAX_VERSION_BYTES: usize = 64;

/// Name, version and publisher of an optimizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The optimizer's name: lower-case letters, digits and dashes, a letter first, by the rule of the contract; with
    /// the namespaces it lies in before it, of the same form, each with a `/` behind. At most 64 characters in all.
    pub name: String,
    /// The optimizer's version by semantic versioning, without build metadata.
    pub version: Version,
    /// The key of the publisher who made this manifest and signed first. Others may sign the same bytes.
    pub publisher: KeyId,
}

impl Manifest {
    /// Checks a name and a version.
    ///
    /// # Errors
    /// [`ManifestError`] saying what a name or version must look like.
    pub fn new(name: &str, version: &str, publisher: KeyId) -> Result<Self, ManifestError> {
        let version =
            Version::parse(version).map_err(|source| ManifestError::Version { version: version.to_owned(), source })?;
        let manifest = Self { name: name.to_owned(), version, publisher };
        manifest.check()?;
        Ok(manifest)
    }

    /// The name without its namespaces: what the component calls itself.
    pub fn own_name(&self) -> &str {
        self.name.rsplit_once('/').map_or(&*self.name, |(_, own)| own)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if !is_name(&self.name) {
            return Err(ManifestError::Name { name: self.name.clone() });
        }
        if !self.version.build.is_empty() {
            return Err(ManifestError::BuildMetadata { version: self.version.clone() });
        }
        if self.version.to_string().len() > MAX_VERSION_BYTES {
            return Err(ManifestError::LongVersion);
        }
        Ok(())
    }

    /// The manifest's one encoding: JSON without white space, fields in the order name, version, publisher.
    fn encode(&self) -> String {
        #[expect(clippy::expect_used, reason = "three texts always have a JSON form")]
        serde_json::to_string(self).expect("three texts always have a JSON form")
    }

    /// The whole manifest section.
    pub(crate) fn section(&self) -> Vec<u8> {
        let mut section = Vec::new();
        section::write_custom(MANIFEST_SECTION, self.encode().as_bytes(), &mut section);
        section
    }

    /// Reads the content of a manifest section.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::Long { bytes: bytes.len() });
        }
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Json { reason: printable(&source.to_string()) })?;
        manifest.check()?;
        if manifest.encode().as_bytes() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }
}

/// Whether an optimizer may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_segment =
        |segment: &str| segment.starts_with(|first: char| first.is_ascii_lowercase()) && segment.bytes().all(allowed);
    name.len() <= MAX_NAME_BYTES && name.split('/').all(is_segment)
}

/// What can be wrong with a manifest. The publisher's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The name has other characters or another length than allowed.
    #[error(
        "`{name}` is no name for an optimizer: use at most {MAX_NAME_BYTES} lower-case letters, digits and dashes, \
         beginning with a letter, with `/` behind namespaces of the same form",
        name = name.escape_default()
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The version is no semantic version.
    #[error("`{}` is no semantic version such as 1.2.3: {source}", version.escape_default())]
    Version {
        /// The version.
        version: String,
        /// Why not.
        source: semver::Error,
    },
    /// Build metadata does not order versions, so it would hide which of two is newer.
    #[error(
        "version {version} has build metadata (`+…`), which does not count when versions are compared: leave it out"
    )]
    BuildMetadata {
        /// The version.
        version: Version,
    },
    /// The version's text is too long.
    #[error("the version has more than {MAX_VERSION_BYTES} characters: shorten its pre-release part")]
    LongVersion,
    /// The section is too long.
    #[error("it has {bytes} bytes and the limit is {MAX_MANIFEST_BYTES}")]
    Long {
        /// Its size.
        bytes: usize,
    },
    /// It is not the JSON expected.
    #[error("it is not JSON with exactly `name`, `version` and `publisher`: {reason}")]
    Json {
        /// What the JSON reader says.
        reason: String,
    },
    /// It is the JSON expected, written otherwise.
    #[error("it is not in its one encoding (no white space, the fields in the order name, version, publisher)")]
    NotCanonical,
}

/// Entry point for fuzzing, beside the reader it attacks: any bytes may be given, nothing may panic, and what is read
/// has no other encoding.
#[doc(hidden)]
pub fn fuzz_manifest(bytes: &[u8]) {
    match Manifest::decode(bytes) {
        Ok(manifest) => {
            assert_eq!(manifest.encode().as_bytes(), bytes, "two encodings of one manifest");
            let again = Manifest::new(&manifest.name, &manifest.version.to_string(), manifest.publisher);
            assert!(again.is_ok_and(|again| again == manifest), "read but not made");
            assert!(is_name(manifest.own_name()));
        }
        Err(error) => assert!(!error.to_string().contains(is_unseen), "{error:?}"),
    }
}
