//! `stepbox rollback`: goes back to what was deployed before.

use clap::Args;

use crate::connection::Connection;
use crate::deploy::Deployed;
use crate::digest::Digest;
use crate::output::{Failure, Report};

/// Go back to the optimizer that was deployed before
#[derive(Args)]
#[command(after_help = "\
The optimizer before the present one takes over again between two rounds, with the options it had. Its file is kept on
the server and verified anew: what is revoked does not come back. `stepbox status` lists what can be gone back to; a
second rollback goes one further. Going below the highest version is allowed to what was deployed, and to nothing else.

Examples:
  stepbox rollback --profile alice.toml
  stepbox rollback --to 5bf9…")]
pub(crate) struct Rollback {
    /// Go back to the deployment with this digest, past those after it
    #[arg(long, value_name = "DIGEST")]
    to: Option<Digest>,

    #[command(flatten)]
    connection: Connection,
}

impl Rollback {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let to = self.to.as_ref().map(Digest::as_str);
        self.connection.with_client(async |client| client.rollback(to).await).map(Deployed::from)
    }
}
