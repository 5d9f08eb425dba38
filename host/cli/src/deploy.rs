//! `stepbox deploy`: makes a server update with another optimizer from the next round on.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use stepbox_client::{DeployOptions, Deployment, OptimizerStatus, ScheduleStatus};

use crate::connection::Connection;
use crate::files;
use crate::output::{Failure, Report, quoted};
use crate::{deployment_file, schedule};

/// No frame holds more than this, so no server takes a larger component whatever its limit: 1 GiB.
pub(crate) const MAX_FILE_BYTES: usize = 1 << 30;

/// Deploy a signed optimizer to a server
#[derive(Args)]
#[command(after_help = "\
The optimizer takes over between two rounds. Replacing one of the same name and a compatible plan keeps its state.
Where the server refuses, nothing has changed. It takes the rights of publishers and deployers together; to have one
person submit and another activate see `stepbox submit` and `stepbox activate`. `stepbox rollback` goes back.

Examples:
  stepbox deploy adamw.signed.wasm --server 10.0.0.7:7437 --ca ca.pem --certificate alice.pem --key alice.key
  stepbox deploy adamw.signed.wasm --learning-rate 0.001 --set weight_decay=0.01 --set beta1=0.95
  stepbox deploy adamw.signed.wasm --config deployment.toml")]
pub(crate) struct Deploy {
    /// The signed component
    file: PathBuf,

    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    connection: Connection,
}

/// With what a component is deployed.
#[derive(Args)]
pub(crate) struct Settings {
    /// TOML file with learning rate, schedule, hyperparameters and groups (see docs/deployment.md); options come first
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Learning rate, the schedule's peak; the optimizer's default where absent
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    learning_rate: Option<f64>,

    /// Set a hyperparameter (see `stepbox inspect`); several may be given
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    hyperparameters: Vec<(String, String)>,
}

pub(crate) fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write it as name=value".to_owned()),
    }
}

impl Deploy {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let component = files::read(&self.file, MAX_FILE_BYTES)?;
        let options = self.settings.options()?;
        let deployment = self.connection.with_client(async |client| client.deploy(component, &options).await)?;
        Ok(Deployed::from(deployment))
    }
}

impl Settings {
    /// The file's, with what the command line says instead.
    pub(crate) fn options(&self) -> Result<DeployOptions, Failure> {
        let mut options = self.config.as_deref().map(deployment_file::load).transpose()?.unwrap_or_default();
        options.learning_rate = self.learning_rate.or(options.learning_rate);
        options.hyperparameters.retain(|(name, _)| self.hyperparameters.iter().all(|(given, _)| given != name));
        options.hyperparameters.extend_from_slice(&self.hyperparameters);
        Ok(options)
    }
}

/// What a deployment, an activation or a rollback has done.
#[derive(Serialize)]
pub(crate) struct Deployed {
    optimizer: OptimizerStatus,
    from_round: u64,
    state_kept: bool,
    schedule: ScheduleStatus,
    groups: Vec<Taken>,
}

/// A group and how many of the server's keys it has taken.
#[derive(Serialize)]
struct Taken {
    name: String,
    keys: u64,
}

impl From<Deployment> for Deployed {
    fn from(deployment: Deployment) -> Self {
        let Deployment { optimizer, from_round, state_kept, schedule, groups } = deployment;
        let groups = groups.into_iter().map(|(name, keys)| Taken { name, keys }).collect();
        Self { optimizer, from_round, state_kept, schedule, groups }
    }
}

impl Report for Deployed {
    fn text(&self) -> String {
        let OptimizerStatus { name, version, publisher, digest } = &self.optimizer;
        let (name, version) = (quoted(name), quoted(version));
        let state = if self.state_kept { "the state before it is kept" } else { "it starts with fresh state" };
        let mut text = format!(
            "deployed {name} {version}, signed with key {publisher}\n\
             digest   {digest}\n\
             from round {} on; {state}\n\
             rate     {}",
            self.from_round,
            schedule::describe(&self.schedule)
        );
        for Taken { name, keys } in &self.groups {
            text += &format!("\ngroup    {}: {keys} keys so far", quoted(name));
        }
        text
    }
}
