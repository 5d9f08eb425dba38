//! Who may hand code to a server: publishers' keys, signatures inside components, and what a server trusts.
//!
//! A publisher signs a component with a [`SigningKey`]; [`sign`] puts the signature and a [`Manifest`] (name, version,
//! publisher) into the `.wasm` itself, [`add_signature`] those of others who vouch for it, [`SigningRequest`] one that
//! is made elsewhere. A server holds a [`TrustStore`] and turns bytes into a [`VerifiedComponent`], the only form in
//! which code goes further; [`TrustStore::recheck`] holds what runs against what is trusted later. A [`VersionLedger`] remembers what was deployed, so that an old version
//! with a known weakness does not come back.
//!
//! The signature follows the WebAssembly tool conventions, [`Signatures.md`]; `docs/signing.md` has the layout byte
//! by byte and says how to check one with standard tools.
//!
//! ```
//! use stepbox_trust::{SigningKey, TrustError, TrustStore, sign};
//!
//! let component = b"\0asm\x0d\0\x01\0"; // the smallest component there is
//! let key = SigningKey::generate()?;
//! let signed = sign(component, "adamw", "1.0.0", &key)?;
//!
//! let store = TrustStore::parse(&format!(
//!     "[[publisher]]\nname = 'Example'\npublic_key = '{}'\n[end]\n",
//!     key.public_key()
//! ))?;
//! let verified = store.verify(signed)?;
//! assert_eq!(verified.manifest().name, "adamw");
//! assert_eq!(verified.publisher_name(), "Example");
//!
//! assert!(matches!(store.verify(component.to_vec()), Err(TrustError::Unsigned)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate reads and writes key files, trust files and ledgers, nothing else: no network, no WebAssembly runtime.
//!
//! [`Signatures.md`]: https://github.com/WebAssembly/tool-conventions/blob/main/Signatures.md
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod claims;
mod digest;
mod end_mark;
mod error;
mod explain;
mod exposure;
mod file;
mod fuzz;
mod hex;
mod key;
mod ledger;
mod manifest;
mod moment;
mod policy;
mod section;
mod sign;
mod signature;
mod standing;
mod unseen;
mod verified;
mod verify;

pub use claims::Claims;
pub use digest::Digest;
pub use end_mark::{END_MARK, has_end_mark};
pub use error::{Shortfall, TrustError};
pub use explain::Explanation;
pub use exposure::{Exposure, exposure};
pub use file::{PRIVATE_MODE, PUBLIC_MODE, create_file, replace_file};
#[doc(hidden)]
pub use fuzz::{fuzz_keys, fuzz_signature, fuzz_trust_policy};
pub use key::{KeyError, KeyId, PublicKey, SigningKey};
pub use ledger::{LedgerError, MAX_EARLIER_VERSIONS, MAX_LEDGER_BYTES, MAX_LEDGER_NAMES, VersionLedger};
pub use manifest::{
    MANIFEST_SECTION, MAX_MANIFEST_BYTES, MAX_NAME_BYTES, MAX_VERSION_BYTES, Manifest, ManifestError, fuzz_manifest,
};
pub use moment::{Moment, MomentError};
pub use policy::{
    EXPIRY_NOTICE, Finding, MAX_COMPONENT_BYTES, MAX_MINIMUM_VERSIONS, MAX_PATTERNS, MAX_PUBLISHER_KEYS,
    MAX_PUBLISHER_NAME_BYTES, MAX_PUBLISHERS, MAX_REASON_BYTES, MAX_REVOCATIONS, MAX_RULE_SIGNERS, MAX_RULES,
    MAX_TRUST_FILE_BYTES, Revocation, Severity, TrustStore, TrustStoreError,
};
pub use semver::Version;
pub use sign::{SignError, SigningRequest, add_signature, sign, strip};
pub use signature::{MAX_SIGNATURES, MESSAGE_BYTES, SIGNATURE_SECTION};
pub use standing::{JudgedSignature, Standing};
pub use unseen::is_unseen;
pub use verified::{Approval, VerifiedComponent};
