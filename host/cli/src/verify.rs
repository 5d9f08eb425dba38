//! `stepbox verify`: would a server with this trust file take the component, and why?

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;
use stepbox_trust::{Explanation, MAX_COMPONENT_BYTES, Moment, TrustStore};

use crate::files;
use crate::output::{Failure, Report};

/// Check a component's signatures against a trust file
#[derive(Args)]
#[command(after_help = "\
Exits with 0 where a server with this trust file would take the component, and with 3 where it would not. Either way it
says what each signature is worth and which rule holds. Needs no server. It does not know which versions a server has had
before, and it does not run the component: `stepbox inspect` says whether a server would admit it, under this name.

Examples:
  stepbox verify adamw.signed.wasm --trust trust.toml
  stepbox verify adamw.signed.wasm --trust trust.toml --at 2027-01-01 --json")]
pub(crate) struct Verify {
    /// The signed component
    file: PathBuf,

    /// The trust file: publishers, rules, revocations
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,

    /// As of this time instead of now: 2026-12-31, or 2026-12-31T12:00:00Z
    #[arg(long, value_name = "DATE")]
    at: Option<Moment>,
}

impl Verify {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let store = TrustStore::load(&self.trust)?;
        let bytes = files::read(&self.file, MAX_COMPONENT_BYTES)?;
        let explanation = store.explain(&bytes, time(self.at));
        match &explanation.outcome {
            Ok(()) => Ok(Verified(explanation)),
            Err(error) => {
                let failure = Failure::from(error.clone()).about(self.file.display());
                Err(failure.with_details(&explanation, details(&explanation)))
            }
        }
    }
}

/// The time that was given, or now.
pub(crate) fn time(at: Option<Moment>) -> SystemTime {
    at.map_or_else(SystemTime::now, SystemTime::from)
}

/// What a verified component is known to be.
#[derive(Serialize)]
struct Verified(Explanation);

impl Report for Verified {
    fn text(&self) -> String {
        let Explanation { name, version, publisher, publisher_name, .. } = &self.0;
        let known = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut lines = vec![format!(
            "verified: {} {}, signed by {} with key {}",
            known(name),
            known(version),
            known(publisher_name),
            publisher.map(|key| key.to_string()).unwrap_or_default()
        )];
        lines.extend(details(&self.0));
        lines.join("\n")
    }
}

/// All else there is to say, line by line.
fn details(explanation: &Explanation) -> Vec<String> {
    let digest = explanation.digest.iter().map(|digest| format!("digest    {digest}"));
    let signatures = explanation.signatures.iter().map(|signature| format!("signature {signature}"));
    let approval = explanation.approval.iter().map(|approval| format!("allowed   {approval}"));
    digest
        .chain(signatures)
        .chain(approval.map(|line| match explanation.outcome {
            Ok(()) => line,
            Err(_) => line.replacen("allowed  ", "asked for", 1),
        }))
        .collect()
}
