//! `stepbox verify`: would a server with this trust file take the component?

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use stepbox_trust::{Digest, KeyId, MAX_COMPONENT_BYTES, TrustStore, VerifiedComponent};

use crate::files;
use crate::output::{Failure, Report};

/// Check a component's signature against a trust file
#[derive(Args)]
#[command(after_help = "\
Exits with 0 where a server with this trust file would take the component, and with 3 where it would not. Which
versions a server has had before is not known here.

Example:
  stepbox verify adamw.signed.wasm --trust trust.toml")]
pub(crate) struct Verify {
    /// The signed component
    file: PathBuf,

    /// The trust file: publishers and revocations
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
}

impl Verify {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let store = TrustStore::load(&self.trust)?;
        let bytes = files::read(&self.file, MAX_COMPONENT_BYTES)?;
        let verified = store.verify(bytes).map_err(|error| Failure::from(error).about(self.file.display()))?;
        Ok(Verified::new(&verified))
    }
}

/// What a verified component is known to be.
#[derive(Serialize)]
pub(crate) struct Verified {
    name: String,
    version: String,
    publisher: KeyId,
    publisher_name: String,
    digest: Digest,
}

impl Verified {
    fn new(component: &VerifiedComponent) -> Self {
        Self {
            name: component.manifest().name.clone(),
            version: component.manifest().version.to_string(),
            publisher: *component.publisher(),
            publisher_name: component.publisher_name().to_owned(),
            digest: component.digest(),
        }
    }
}

impl Report for Verified {
    fn text(&self) -> String {
        format!(
            "verified: {} {}, signed by {} with key {}\ndigest    {}",
            self.name, self.version, self.publisher_name, self.publisher, self.digest
        )
    }
}
