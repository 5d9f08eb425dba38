//! Where attacks take place: a server process with workers that train through it, and another that nobody disturbs.

mod authority;
mod cast;
mod compromised;
mod model;
mod process;
mod training;
mod twin;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use rustls::ClientConfig as Tls;
use stepbox_client::{Client, DeployOptions, ServerStatus};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

pub use authority::{Authority, Credentials, Wanted};
pub use cast::{Cast, DEPLOYERS, GOOD, GOOD_VERSION, GUARDED, MENDED, MINIMUM_VERSION, NARROW};
pub use compromised::{Compromised, Doing, When, push, push_as};
pub use model::{KEYS, Key, WORKERS, bytes};
pub use process::{NotStarted, Process, Program};
pub use training::End;

use crate::answer::Answer;
use crate::in_time;
use compromised::Mischief;
use training::{Honest, Training};
use twin::Twin;

/// Rounds that must still be done after an attack.
pub const ROUNDS_AFTER: u64 = 4;

/// Everything.
pub struct Arena {
    /// Who takes part.
    pub cast: Cast,
    /// The server that is attacked; `None` while an attack has it stopped.
    pub server: Option<Process>,
    training: Training,
    twin: Option<Twin>,
    twins: u32,
    /// Digest of the optimizer that must be in use.
    good_digest: String,
    /// Deployments so far, of which the deployers take turns.
    deployments: AtomicUsize,
}

/// What there was before an attack.
pub struct Before {
    log_length: u64,
    rounds: u64,
}

/// What there was to be seen after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// What is wrong with the server, if anything.
    pub unhealthy: Option<String>,
    /// What is wrong with the training, if anything.
    pub disturbed: Option<String>,
    /// Rounds done since before the attack.
    pub rounds: u64,
    /// The most memory that the server's process has had resident since before the attack, in bytes; 0 if it has ended.
    pub peak_resident_bytes: u64,
}

impl Arena {
    /// Starts both servers and everybody who trains.
    ///
    /// # Errors
    /// Something is missing, or does not start.
    pub async fn prepare(stepbox: &Path, components: &Path, folder: &Path) -> Result<Self> {
        let cast = Cast::make(stepbox, components, folder).await?;
        let server = cast.start(&folder.join("server")).await?;
        let (good_digest, training) = begin(&cast, server.address).await?;
        let mut arena = Self {
            cast,
            server: Some(server),
            training,
            twin: None,
            twins: 0,
            good_digest,
            deployments: AtomicUsize::new(0),
        };
        arena.new_twin().await?;
        Ok(arena)
    }

    /// The server's folder, with its configuration, trust file, state and log.
    pub fn server_folder(&self) -> PathBuf {
        self.cast.folder.join("server")
    }

    /// Puts another trust file in place of the server's, and returns the one before.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn replace_trust_file(&self, text: &str) -> Result<String> {
        let path = self.server_folder().join("publishers.toml");
        let before = fs::read_to_string(&path)?;
        // As a careful editor does it, so that nobody reads half of it.
        let next = path.with_extension("next");
        fs::write(&next, text)?;
        fs::rename(&next, &path)?;
        Ok(before)
    }

    /// Where the server listens.
    ///
    /// # Errors
    /// It does not run.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.as_ref().context("the server does not run")?.address)
    }

    /// Options of the optimizer that everybody trains with.
    pub fn good_options() -> DeployOptions {
        DeployOptions {
            learning_rate: Some(1e-3),
            // So that the bait stays what it is.
            hyperparameters: vec![("weight_decay".into(), "0".into())],
            ..DeployOptions::default()
        }
    }

    /// Somebody's client.
    ///
    /// # Errors
    /// The server does not want it.
    pub async fn client(&self, identity: &str) -> Result<Client> {
        self.cast.client(self.address()?, identity).await
    }

    /// What a client with any certificate meets: its connection, and where it gets one, its first request.
    ///
    /// # Errors
    /// The server does not run.
    pub async fn try_connect(&self, credentials: &Credentials) -> Result<Answer> {
        let config = self.cast.reach(self.address()?, credentials);
        Ok(Answer::of(in_time(Client::connect(&config)).await?.map(|client| client.identity().to_owned())))
    }

    /// Has the deployer, who may, try to deploy bytes.
    ///
    /// # Errors
    /// The deployer cannot connect.
    pub async fn deploy(&self, component: Vec<u8>) -> Result<Answer> {
        self.deploy_with(component, &DeployOptions::default()).await
    }

    /// As [`deploy`](Self::deploy), with options.
    ///
    /// # Errors
    /// The deployer cannot connect.
    pub async fn deploy_with(&self, component: Vec<u8>, options: &DeployOptions) -> Result<Answer> {
        let deployer = self.deployer().await?;
        Ok(Answer::of(in_time(deployer.deploy(component, options)).await?))
    }

    /// The client of the deployer whose turn it is: one alone would soon reach `limits.changes_per_minute`.
    ///
    /// # Errors
    /// The server refuses the connection.
    async fn deployer(&self) -> Result<Client> {
        let number = self.deployments.fetch_add(1, Ordering::Relaxed) % DEPLOYERS;
        self.client(&Cast::deployer(number)).await
    }

    /// Has the attacker's worker do something besides its duty, and waits for what comes of it.
    ///
    /// # Errors
    /// It could not do it.
    pub async fn mischief(
        &self,
        when: When,
        act: impl for<'a> FnOnce(&'a mut Compromised, Key, u64) -> Doing<'a> + Send + 'static,
    ) -> Result<Answer> {
        self.order(when, act).await
    }

    /// As [`mischief`](Self::mischief), for who does something else meanwhile.
    pub fn order<Act>(&self, when: When, act: Act) -> impl Future<Output = Result<Answer>> + Send + use<Act>
    where
        Act: for<'a> FnOnce(&'a mut Compromised, Key, u64) -> Doing<'a> + Send + 'static,
    {
        let (told, answer) = oneshot::channel();
        let (orders, order) = (self.training.orders(), Mischief { when, act: Box::new(act), told });
        async move {
            ensure!(orders.send(order).await.is_ok(), "the attacker's worker is gone");
            in_time(answer).await?.context("the attacker's worker came to no deed")?
        }
    }

    /// A worker's TLS, and so on: see [`Cast::tls`].
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn tls(&self, identity: &str) -> Result<Tls> {
        self.cast.tls(identity)
    }

    /// What the server has logged since `before`.
    ///
    /// # Errors
    /// It does not run.
    pub fn log_since(&self, before: &Before) -> Result<String> {
        Ok(self.server.as_ref().context("the server does not run")?.log_since(before.log_length))
    }

    /// The state of things before an attack. Everybody trains from here on.
    pub fn begin(&mut self) -> Before {
        self.training.start();
        if let Some(server) = &self.server {
            server.forget_peak();
        }
        Before { log_length: self.server.as_ref().map_or(0, Process::log_length), rounds: self.training.rounds() }
    }

    /// Has everybody train a little more, and looks at the server and at the weights.
    pub async fn end(&mut self, before: &Before) -> After {
        let disturbed = self.check_training().await.err().map(|error| format!("{error:#}"));
        let unhealthy = self.check_server(before).await.err().map(|error| format!("{error:#}"));
        let peak = self.server.as_ref().and_then(|server| server.peak_resident_bytes().ok());
        let rounds = self.training.rounds().saturating_sub(before.rounds);
        After { unhealthy, disturbed, rounds, peak_resident_bytes: peak.unwrap_or(0) }
    }

    async fn check_training(&mut self) -> Result<()> {
        let start = self.training.rounds();
        let end = self.training.finish(ROUNDS_AFTER).await?;
        ensure!(end == End::Done, "a round failed: {end:?}");
        ensure!(self.training.rounds() >= start + ROUNDS_AFTER, "no rounds any more");
        let (_, versions) = self.training.model().context("the workers are gone")?;
        let digest = self.status().await?.weights_digest.context("the status has no digest")?;
        let twin = self.twin.as_mut().context("there is no undisturbed run")?;
        let undisturbed = twin.digest_at(&self.cast, &versions).await?;
        ensure!(digest == undisturbed, "the weights are not those of the run that nobody disturbed");
        Ok(())
    }

    async fn check_server(&mut self, before: &Before) -> Result<()> {
        let server = self.server.as_mut().context("the server does not run")?;
        ensure!(server.is_alive(), "the server's process has ended");
        server.peak_resident_bytes()?;
        let log = server.log_since(before.log_length);
        if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
            anyhow::bail!("the server panicked: {line}");
        }
        let status = self.status().await?;
        let optimizer = status.optimizer.context("no optimizer is deployed")?;
        ensure!(optimizer.digest == self.good_digest, "{} {} is in use", optimizer.name, optimizer.version);
        if let Some((pending, _)) = status.pending_optimizer {
            anyhow::bail!("{} {} is about to take over", pending.name, pending.version);
        }
        Ok(())
    }

    /// The status, with the digest of all weights.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn status(&self) -> Result<ServerStatus> {
        Ok(in_time(self.client("operator").await?.status(true)).await??)
    }

    /// Has everybody train under an optimizer until a round fails, for so many rounds at most.
    ///
    /// # Errors
    /// A worker met something else.
    pub async fn train_until_failure(&mut self, rounds: u64) -> Result<End> {
        self.training.until_failure(rounds).await
    }

    /// Has the good optimizer take over again after another one, and the undisturbed run go on from the same weights.
    ///
    /// # Errors
    /// It could not be deployed.
    pub async fn replace_optimizer(&mut self) -> Result<()> {
        // Where nothing failed everybody is still training, and stops here.
        self.training.finish(0).await?;
        // Keys may be a round apart now, and those behind are still to do that round with the optimizer that failed. When
        // another one has all of them, all begin with the good one at the same round, as the undisturbed run does.
        let deployer = self.deployer().await?;
        let interim = self.cast.signed(cast::INTERIM, "1.0.0")?;
        in_time(deployer.deploy(interim, &DeployOptions::default())).await?.context("the optimizer in between")?;
        for _ in 0..=KEYS.len() {
            self.training.start();
            if self.training.finish(1).await? == End::Done {
                break;
            }
        }
        in_time(deployer.deploy(self.cast.good(), &Self::good_options())).await?.context("the good optimizer")?;
        self.new_twin().await?;
        self.training.start();
        Ok(())
    }

    /// Starts the server again in its folder, where an attack has it stopped, and training from its beginning.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_again(&mut self) -> Result<()> {
        // Whoever was training has lost the connection.
        let _ = self.training.finish(0).await;
        let server = Process::start(&self.cast.program, &self.server_folder(), "server.toml").await?;
        let rounds = self.training.rounds();
        let (digest, mut training) = begin(&self.cast, server.address).await?;
        training.count_from(rounds);
        (self.good_digest, self.training, self.server) = (digest, training, Some(server));
        self.new_twin().await?;
        self.training.start();
        Ok(())
    }

    /// Ends everything in good order.
    ///
    /// # Errors
    /// A server does not stop.
    pub async fn close(self) -> Result<()> {
        drop(self.training);
        if let Some(twin) = self.twin {
            twin.stop().await?;
        }
        match self.server {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }

    /// An undisturbed run from the weights of now.
    async fn new_twin(&mut self) -> Result<()> {
        if let Some(twin) = self.twin.take() {
            twin.stop().await?;
        }
        self.twins += 1;
        let folder = self.cast.folder.join(format!("undisturbed-{}", self.twins));
        let (weights, versions) = self.training.model().context("the workers are gone")?;
        self.twin = Some(Twin::start(&self.cast, folder, weights, versions).await?);
        Ok(())
    }
}

/// Deploys the good optimizer and puts all workers in their places.
async fn begin(cast: &Cast, address: SocketAddr) -> Result<(String, Training)> {
    let deployer = cast.client(address, "deployer").await?;
    let deployed = deployer.deploy(cast.good(), &Arena::good_options()).await.context("the good optimizer")?;
    let first_values = KEYS.iter().map(|key| key.first_values()).collect::<Result<Vec<_>>>()?;
    let mut joining = JoinSet::new();
    for rank in 0..WORKERS - 1 {
        let (client, values) = (cast.client(address, &Cast::worker(rank)).await?, first_values.clone());
        joining.spawn(async move { Honest::new(client, rank, &values).await });
    }
    let (orders, taken) = mpsc::channel(1);
    let compromised = Compromised::new(address, cast.tls(&Cast::worker(WORKERS - 1))?, taken).await?;
    let honest = joining.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    Ok((deployed.optimizer.digest, Training::new(honest, compromised, orders)))
}
