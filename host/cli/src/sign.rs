//! `stepbox sign`: puts a signature into a component.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use stepbox_trust::{Digest, KeyId, MAX_COMPONENT_BYTES, SigningKey, sign, strip};

use crate::files;
use crate::output::{Failure, Report};

/// Sign an optimizer component
#[derive(Args)]
#[command(after_help = "\
Example:
  stepbox sign adamw.wasm --key publisher.key --name adamw --version 1.0.0 --out adamw.signed.wasm")]
#[command(disable_version_flag = true)]
pub(crate) struct Sign {
    /// The component, as the compiler made it
    component: PathBuf,

    /// The signing key, made by `stepbox key new`
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// The optimizer's name: lower-case letters, digits and dashes
    #[arg(long)]
    name: String,

    /// The optimizer's version, such as 1.2.3; a server takes no older one than it had
    #[arg(long)]
    version: String,

    /// Where the signed component goes; an older file there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Replace the signature of a component that is signed already
    #[arg(long)]
    replace: bool,
}

impl Sign {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let key = SigningKey::load(&self.key)?;
        let mut component = files::read(&self.component, MAX_COMPONENT_BYTES)?;
        let about = |error| Failure::from(error).about(self.component.display());
        if self.replace {
            component = strip(&component).map_err(about)?;
        }
        let signed = sign(&component, &self.name, &self.version, &key).map_err(about)?;
        files::replace(&self.out, &signed)?;
        Ok(Signed {
            file: self.out.clone(),
            name: self.name.clone(),
            version: self.version.clone(),
            publisher: key.public_key().id(),
            digest: Digest::of(&signed),
            bytes: signed.len(),
        })
    }
}

#[derive(Serialize)]
struct Signed {
    file: PathBuf,
    name: String,
    version: String,
    publisher: KeyId,
    digest: Digest,
    bytes: usize,
}

impl Report for Signed {
    fn text(&self) -> String {
        format!(
            "{}: {} {} signed with key {}, {} bytes, digest {}",
            self.file.display(),
            self.name,
            self.version,
            self.publisher,
            self.bytes,
            self.digest
        )
    }
}
