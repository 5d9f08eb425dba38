//! The demonstration: a server, four workers and a trained model, and then seven attempts to smuggle an optimizer in.
//!
//! Everything runs as an operator would run it: the `stepbox` program and worker processes, real certificates and keys,
//! in a temporary folder. Whatever happens, no process and no folder is left behind.

mod attempts;
mod comparison;
mod outcome;
mod server;
mod stepbox;
mod workers;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

pub use attempts::Refusal;
pub use comparison::{Comparison, PARAMETERS};
pub use outcome::Outcome;

use self::server::Server;
use self::stepbox::{Identity, Stepbox};
use self::workers::Workers;
use crate::dataset::Digits;
use crate::digest::weights_digest;
use crate::training::{BATCH, LEARNING_RATE, run_natively};

/// Worker processes.
pub const WORKERS: u32 = 4;

/// Share of held-out images that must be read right.
pub const WANTED_ACCURACY: f64 = 0.96;

/// The version under which the good optimizer is deployed. There must be room for an older one below.
const VERSION: &str = "1.1.0";

/// Where the programs and components are.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The program `stepbox`.
    pub stepbox: PathBuf,
    /// The program `digits-worker`.
    pub worker: PathBuf,
    /// The folder of the built components; the hostile ones in its folder `hostile`.
    pub components: PathBuf,
}

impl Parts {
    /// A built component.
    ///
    /// # Errors
    /// It is not there: the components have not been built.
    fn component(&self, name: &str) -> Result<PathBuf> {
        let path = self.components.join(name).with_extension("wasm");
        ensure!(path.is_file(), "{} is not there; `cargo xtask guests` builds it", path.display());
        Ok(path)
    }
}

/// What the server's status says that matters here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Model {
    weights_digest: String,
    optimizer: Option<Deployed>,
    /// Must be empty: an attempt that was refused leaves nothing behind for a later round.
    pending_optimizer: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Deployed {
    name: String,
    version: String,
    digest: String,
}

/// What an operator would have open: the folder, the program, the deployer's identity and the server.
struct Scene {
    stepbox: Stepbox,
    deployer: Identity,
    server: Server,
}

impl Scene {
    async fn deploy(&self, component: &Path, options: &[&str]) -> Result<std::result::Result<(), stepbox::Refused>> {
        let component = component.to_str().context("the folder's name is not UTF-8")?;
        let connection = self.deployer.connection(self.server.address());
        let arguments: Vec<&str> = ["deploy", component]
            .into_iter()
            .chain(connection.iter().map(String::as_str))
            .chain(options.iter().copied())
            .collect();
        Ok(self.stepbox.run(&arguments).await?.map(drop))
    }

    async fn model(&self) -> Result<Model> {
        let connection = self.deployer.connection(self.server.address());
        let arguments: Vec<&str> =
            ["status", "--weights-digest"].into_iter().chain(connection.iter().map(String::as_str)).collect();
        let status = self.stepbox.run(&arguments).await?.map_err(stepbox::Refused::unexpected)?;
        serde_json::from_value(status).context("the server's status is not understood")
    }
}

/// Runs it all.
///
/// # Errors
/// Something did not work that has nothing to do with the claims of the demonstration: a program is missing, a process
/// died. Whether the claims held stands in the outcome.
pub async fn run(parts: &Parts, rounds: u64) -> Result<Outcome> {
    let digits = Digits::load()?;
    let good = parts.component("adamw")?;
    let folder = tempfile::Builder::new().prefix("stepbox-demo-").tempdir().context("no temporary folder")?;
    let stepbox = Stepbox::new(&parts.stepbox, folder.path())?;

    let progress = progress_bar(rounds);
    progress.set_message("making certificates and keys");
    let cast = Cast::make(&stepbox).await?;
    let signed = stepbox.sign(&good, &cast.publisher_key, "adamw", VERSION, "adamw.signed.wasm").await?;

    progress.set_message("starting the server");
    let server = Server::start(&stepbox, &cast).await?;
    let scene = Scene { stepbox, deployer: cast.deployer, server };
    let rate = LEARNING_RATE.to_string();
    scene.deploy(&signed, &["--learning-rate", &rate]).await?.map_err(stepbox::Refused::unexpected)?;

    progress.set_message("training");
    let workers = Workers::start(&parts.worker, &cast.workers, scene.server.address(), rounds, &progress)?;
    let training = workers.finish(&scene.server).await?;

    progress.set_message("the same training natively");
    let native = weights_digest(&run_natively(&digits.training, WORKERS, rounds, BATCH, LEARNING_RATE));

    let trained = scene.model().await?;
    let mut refusals = Vec::new();
    for attempt in attempts::prepare(parts, &scene.stepbox, &cast.publisher_key, &signed).await? {
        progress.set_message(format!("attempt: {}", attempt.name));
        refusals.push(attempt.make(&scene, &trained).await?);
    }

    scene.server.stop().await?;

    progress.set_message("timing updates");
    let comparison = comparison::compare(&good)?;
    progress.finish_and_clear();

    Ok(Outcome {
        accuracy: training.accuracy,
        rounds,
        rounds_per_second: rounds as f64 / training.seconds,
        comparison,
        workers_agree: training.weights_sha256 == trained.weights_digest,
        native_agrees: native == trained.weights_digest,
        weights_sha256: trained.weights_digest,
        refusals,
    })
}

/// Who takes part, with certificates and keys made for this run.
struct Cast {
    server: Identity,
    workers: Vec<Identity>,
    deployer: Identity,
    publisher_key: PathBuf,
    /// The text that servers trust the publisher by.
    publisher: String,
}

impl Cast {
    async fn make(stepbox: &Stepbox) -> Result<Self> {
        stepbox.make_authority().await?;
        let mut workers = Vec::new();
        for rank in 0..WORKERS {
            workers.push(stepbox.issue(&format!("worker-{rank}"), &[]).await?);
        }
        let (publisher_key, publisher) = stepbox.new_key("publisher.key").await?;
        Ok(Self {
            server: stepbox.issue("server", &["--server"]).await?,
            workers,
            deployer: stepbox.issue("deployer", &[]).await?,
            publisher_key,
            publisher,
        })
    }
}

/// On a terminal; nothing is drawn into a pipe.
fn progress_bar(rounds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos:>5}/{len} rounds  {msg}");
    ProgressBar::new(rounds).with_style(style.expect("the template is constant and well-formed"))
}
