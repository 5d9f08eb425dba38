//! `stepbox sign`: puts a signature into a component.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use stepbox_trust::{Digest, KeyId, MAX_COMPONENT_BYTES, SigningRequest, strip};

use crate::admission;
use crate::files;
use crate::output::{Failure, Report, printable};
use crate::signer::SignerArguments;

/// Sign an optimizer component
#[derive(Args)]
#[command(after_help = "\
The component is run in a sandbox to say its name. If that is not --name without its namespaces, nothing is signed:
every server would refuse it. A component that the sandbox does not admit is signed with a warning.

A signer program gets 42 bytes on standard input: `wasmsig`, the bytes 1, 1 and 1, and the SHA-256 of the content. It
signs them with plain Ed25519 (RFC 8032) and prints the signature, 64 bytes or base64. It is run without a shell, and
what it prints is verified before anything is written.

Examples:
  stepbox sign adamw.wasm --key publisher.key --name adamw --version 1.0.0 --out adamw.signed.wasm
  stepbox sign adamw.signed.wasm --add --key board.key --out adamw.both.wasm
  stepbox sign adamw.wasm --signer-command \"sign-with-token --slot 2\" --public-key token.pub \\
      --name team-a/adamw --version 1.0.0 --out adamw.signed.wasm")]
#[command(disable_version_flag = true)]
pub(crate) struct Sign {
    /// The component, as the compiler made it; with --add, as others have signed it
    component: PathBuf,

    #[command(flatten)]
    signer: SignerArguments,

    /// The optimizer's name: lower-case letters, digits and dashes, with namespaces before it as in team-a/adamw
    #[arg(long, required_unless_present = "add")]
    name: Option<String>,

    /// The optimizer's version, such as 1.2.3; a server takes no older one than it had
    #[arg(long, required_unless_present = "add")]
    version: Option<String>,

    /// Where the signed component goes; an older file there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Replace the signatures of a component that is signed already
    #[arg(long)]
    replace: bool,

    /// Add a signature to a component that is signed already; name, version and content stay as they are
    #[arg(long, conflicts_with_all = ["replace", "name", "version"])]
    add: bool,
}

impl Sign {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let signer = self.signer.signer()?;
        let public_key = signer.public_key();
        let component = files::read(&self.component, MAX_COMPONENT_BYTES)?;
        let admitted = component.clone();
        let about = |error| Failure::from(error).about(self.component.display());
        let request = match (&self.name, &self.version) {
            (Some(name), Some(version)) => {
                let component = if self.replace { strip(&component).map_err(about)? } else { component };
                SigningRequest::new(&component, name, version, &public_key).map_err(about)?
            }
            _ => SigningRequest::add(&component, &public_key).map_err(about)?,
        };
        let manifest = request.manifest().clone();
        let warning = match admission::admit(&admitted) {
            Ok(component) => match admission::wrong_name(&component.description().name, &manifest) {
                Some(reason) => return Err(Failure::here("name", reason).about(self.component.display())),
                None => None,
            },
            Err(error) => Some(format!("a server with default limits would not admit it: {error}")),
        };
        let digest = request.digest();
        let signatures = request.signatures() + 1;
        let signed = signer.sign(request).map_err(|failure| failure.about(self.component.display()))?;
        files::replace(&self.out, &signed)?;
        Ok(Signed {
            file: self.out.clone(),
            name: manifest.name,
            version: manifest.version.to_string(),
            publisher: manifest.publisher,
            key_id: public_key.id(),
            signatures,
            digest,
            file_digest: Digest::of(&signed),
            bytes: signed.len(),
            warning,
        })
    }
}

#[derive(Serialize)]
struct Signed {
    file: PathBuf,
    name: String,
    version: String,
    publisher: KeyId,
    key_id: KeyId,
    signatures: usize,
    digest: Digest,
    file_digest: Digest,
    bytes: usize,
    /// Why a server might refuse it all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl Report for Signed {
    fn text(&self) -> String {
        let Self { name, version, key_id, signatures, digest, bytes, warning, .. } = self;
        let all = if *signatures == 1 { String::new() } else { format!(" ({signatures} signatures)") };
        let warning = warning.as_ref().map(|warning| format!("\nwarning: {}", printable(warning))).unwrap_or_default();
        format!(
            "{}: {name} {version} signed with key {key_id}{all}, {bytes} bytes, digest {digest}{warning}",
            self.file.display()
        )
    }
}
