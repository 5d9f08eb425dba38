//! `stepbox activate`: deploys what somebody has submitted.

use clap::Args;

use crate::connection::Connection;
use crate::deploy::{Deployed, Settings};
use crate::digest::Digest;
use crate::output::{Failure, Report};

/// Deploy an optimizer that was submitted to a server
#[derive(Args)]
#[command(after_help = "\
As `stepbox deploy`, with a component that the server has already. It is verified and admitted once more: what was
revoked since it was submitted is refused.

Examples:
  stepbox submissions --profile alice.toml
  stepbox activate 5bf9… --profile alice.toml --learning-rate 0.001")]
pub(crate) struct Activate {
    /// The digest, as `stepbox submissions`, `sign` and `verify` print it
    digest: Digest,

    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    connection: Connection,
}

impl Activate {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let options = self.settings.options()?;
        let activated = async |client: &stepbox_client::Client| client.activate(self.digest.as_str(), &options).await;
        self.connection.with_client(activated).map(Deployed::from)
    }
}
