//! `stepbox submit` and `stepbox submissions`: components that wait for whoever may activate them.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use stepbox_client::SubmissionStatus;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::connection::Connection;
use crate::deploy::MAX_FILE_BYTES;
use crate::digest::Digest;
use crate::files;
use crate::output::{Failure, Report, quoted};

/// Have a server keep a signed optimizer until somebody activates it
#[derive(Args)]
#[command(after_help = "\
The server verifies the signature and tries the component out, as a deployment does, and keeps it under its digest.
Nothing runs before somebody who may deploy says so: `stepbox activate DIGEST`.

Example:
  stepbox submit adamw.signed.wasm --profile carol.toml")]
pub(crate) struct Submit {
    /// The signed component
    file: PathBuf,

    #[command(flatten)]
    connection: Connection,
}

/// Show the optimizers that were submitted to a server
#[derive(Args)]
#[command(after_help = "\
Examples:
  stepbox submissions --profile alice.toml
  stepbox submissions --withdraw 5bf9…")]
pub(crate) struct Submissions {
    /// Have the server forget this one; deployers may withdraw all, publishers their own
    #[arg(long, value_name = "DIGEST")]
    withdraw: Option<Digest>,

    #[command(flatten)]
    connection: Connection,
}

impl Submit {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let component = files::read(&self.file, MAX_FILE_BYTES)?;
        self.connection.with_client(async |client| client.submit(component).await).map(Submitted)
    }
}

impl Submissions {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let submissions = self.connection.with_client(async |client| {
            if let Some(digest) = &self.withdraw {
                client.withdraw(digest.as_str()).await?;
            }
            client.submissions().await
        });
        submissions.map(Listed)
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Submitted(SubmissionStatus);

impl Report for Submitted {
    fn text(&self) -> String {
        let SubmissionStatus { component, .. } = &self.0;
        format!(
            "submitted {} {}, signed with key {}\ndigest    {}\nactivate it with `stepbox activate {3}`",
            quoted(&component.name),
            quoted(&component.version),
            component.publisher,
            component.digest
        )
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Listed(Vec<SubmissionStatus>);

impl Report for Listed {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "nothing is submitted".to_owned();
        }
        let line = |submission: &SubmissionStatus| {
            let SubmissionStatus { component, bytes, submitted_by, submitted_at } = submission;
            let time = i64::try_from(*submitted_at).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
            let time = time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| "?".to_owned());
            format!(
                "{}  {} {}, {bytes} bytes, by {} at {time}",
                component.digest,
                quoted(&component.name),
                quoted(&component.version),
                quoted(submitted_by)
            )
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
