//! A server, set up as a job's operator would set it up.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;

use stepbox_client::{Client, ClientConfig, ClientError, DeployOptions, Deployment, ServerStatus};
use stepbox_server::{Config, Reloader, Server};
use stepbox_trust::{PublicKey, SigningKey, add_signature, sign};
use tokio::sync::oneshot;

use crate::authority::{Authority, Credentials, replace};
use crate::{HANGS, log};

/// Options of a test's server.
pub struct Options {
    /// Part of every identity, so that the log distinguishes tests.
    pub name: &'static str,
    /// Number of workers of the job.
    pub workers: usize,
    /// Number of shard threads.
    pub shard_threads: usize,
    /// `mean` or `sum`.
    pub aggregation: &'static str,
    /// How long the server waits for other workers in a round.
    pub round_timeout_seconds: f64,
    /// How long a worker may be disconnected.
    pub reconnect_grace_seconds: f64,
    /// Roles that may set the learning rate, in addition to the deployer.
    pub schedulers: &'static [&'static str],
    /// More lines of the configuration's section `[access]`, and its grants.
    pub access: &'static str,
    /// More fields of the configuration's section `[job]`.
    pub job: &'static str,
    /// More fields of the configuration's section `[trust]`.
    pub trust: &'static str,
    /// More sections of the configuration.
    pub more: &'static str,
}

impl Options {
    /// Two workers, one shard thread, and timeouts that are reached only if something hangs.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            workers: 2,
            shard_threads: 1,
            aggregation: "mean",
            round_timeout_seconds: HANGS.as_secs_f64(),
            reconnect_grace_seconds: HANGS.as_secs_f64(),
            schedulers: &["scheduler"],
            access: "",
            job: "",
            trust: "",
            more: "",
        }
    }
}

/// A publisher: signs optimizers.
pub struct Publisher(SigningKey);

impl Publisher {
    /// A publisher with a new key.
    pub fn new() -> Self {
        Self(SigningKey::generate().unwrap())
    }

    /// Signs a component built by `cargo xtask guests` under the component's name.
    pub fn sign(&self, name: &str, version: &str) -> Vec<u8> {
        self.sign_as(name, name.rsplit('/').next().unwrap_or(name), version)
    }

    /// Signs a component under a name that may differ from the component's.
    pub fn sign_as(&self, component_name: &str, name: &str, version: &str) -> Vec<u8> {
        sign(&component(component_name), name, version, &self.0).unwrap()
    }

    /// Signs the bytes of a component that was changed after it was built.
    pub fn sign_bytes(&self, component: &[u8], name: &str, version: &str) -> Vec<u8> {
        sign(component, name, version, &self.0).unwrap()
    }

    /// Adds a signature to a file that another publisher has signed.
    pub fn sign_too(&self, signed: &[u8]) -> Vec<u8> {
        add_signature(signed, &self.0).unwrap()
    }

    /// The public key, for a trust file.
    pub fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes of a component built by `cargo xtask guests`.
pub fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components").join(format!("{name}.wasm"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask guests` first", path.display()))
}

/// A server that runs in a separate runtime until it is dropped.
pub struct TestServer {
    /// The authority that certifies its peers.
    pub authority: Authority,
    /// The publisher whose components it trusts.
    pub publisher: Publisher,
    /// The address on which it listens.
    pub address: SocketAddr,
    options: Options,
    running: Option<Running>,
}

/// Replaces the trust file with a new one, as an editor does.
fn write_trust(folder: &Path, publisher: &Publisher, more: &str) {
    let trust = format!("{more}\n[[publisher]]\nname = 'Example'\npublic_key = '{}'\n[end]\n", publisher.public_key());
    fs::write(folder.join("publishers.new"), trust).unwrap();
    fs::rename(folder.join("publishers.new"), folder.join("publishers.toml")).unwrap();
}

struct Running {
    stop: oneshot::Sender<()>,
    reloader: Reloader,
    thread: JoinHandle<()>,
}

impl TestServer {
    /// Creates certificates, a publisher and a configuration, and starts a server with them on a free port.
    pub fn start(options: Options) -> Self {
        log::start();
        let (authority, publisher) = (Authority::new(), Publisher::new());
        let server = authority.issue("server");
        write_trust(authority.folder(), &publisher, "");
        let workers: Vec<_> = (0..options.workers).map(|rank| format!("{}-worker-{rank}", options.name)).collect();
        let schedulers: Vec<_> = options.schedulers.iter().map(|role| format!("{}-{role}", options.name)).collect();
        let Options {
            name,
            shard_threads,
            aggregation,
            round_timeout_seconds,
            reconnect_grace_seconds,
            access,
            job,
            trust,
            more,
            ..
        } = options;
        let configuration = format!(
            "listen = '127.0.0.1:0'\nstate_directory = 'state'\nshard_threads = {shard_threads}\n\
             [tls]\nca = 'ca.pem'\ncertificate = {:?}\nkey = {:?}\n\
             [job]\nworkers = {workers:?}\naggregation = '{aggregation}'\n\
             round_timeout_seconds = {round_timeout_seconds}\nreconnect_grace_seconds = {reconnect_grace_seconds}\n\
             {job}\n\
             [access]\nschedulers = {schedulers:?}\npublishers = ['{name}-deployer', '{name}-publisher']\n\
             deployers = ['{name}-deployer', '{name}-activator']\noperators = ['{name}-operator']\n{access}\n\
             [trust]\nstore = 'publishers.toml'\n{trust}\n{more}\n",
            server.certificate, server.key
        );
        fs::write(authority.folder().join("server.toml"), configuration).unwrap();
        let (address, running) = run(authority.folder());
        Self { authority, publisher, address, options, running: Some(running) }
    }

    /// Stops the server and starts it again with the same configuration and state, on another free port.
    pub fn restart(&mut self) {
        self.stop();
        let (address, running) = run(self.authority.folder());
        (self.address, self.running) = (address, Some(running));
    }

    /// Writes a new trust file, with `more` before the publisher, and makes the server read it immediately.
    pub fn trust(&self, more: &str) {
        write_trust(self.authority.folder(), &self.publisher, more);
        self.reload();
    }

    /// Changes the configuration's text, and makes the server read its files again.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        let path = self.authority.folder().join("server.toml");
        replace(&path, &change(fs::read_to_string(&path).unwrap()));
        self.reload();
    }

    /// Makes the server read its files again, as SIGHUP does.
    pub fn reload(&self) {
        self.running.as_ref().expect("the server is running").reloader.reload();
    }

    /// The identity of a role of this test, such as `worker-0`.
    pub fn identity(&self, role: &str) -> String {
        format!("{}-{role}", self.options.name)
    }

    /// Issues a certificate for a role, from the server's authority.
    pub fn credentials(&self, role: &str) -> Credentials {
        self.authority.issue(&self.identity(role))
    }

    /// A client configuration that reaches the server with a certificate.
    pub fn reach(&self, credentials: &Credentials) -> ClientConfig {
        let mut config = ClientConfig::new(
            self.address.to_string(),
            self.authority.certificate(),
            &credentials.certificate,
            &credentials.key,
        );
        config.request_timeout = HANGS;
        config
    }

    /// Connects a client with a role.
    pub async fn client(&self, role: &str) -> Client {
        Client::connect(&self.reach(&self.credentials(role))).await.unwrap()
    }

    /// Connects a worker and registers it.
    pub async fn worker(&self, rank: usize) -> Client {
        let client = self.client(&format!("worker-{rank}")).await;
        let registration = client.register().await.unwrap();
        assert_eq!((registration.rank as usize, registration.workers as usize), (rank, self.options.workers));
        client
    }

    /// Connects all workers and registers them in this order. Returns them by rank.
    pub async fn workers(&self, order: impl IntoIterator<Item = usize>) -> Vec<Client> {
        let mut workers = Vec::new();
        for rank in order {
            workers.push((rank, self.worker(rank).await));
        }
        workers.sort_by_key(|(rank, _)| *rank);
        workers.into_iter().map(|(_, client)| client).collect()
    }

    /// Deploys a component signed by the trusted publisher.
    pub async fn deploy(&self, name: &str, version: &str, settings: &[(&str, &str)]) -> Deployment {
        let mut options = DeployOptions::default();
        for (name, value) in settings {
            if *name == "learning_rate" {
                options.learning_rate = Some(value.parse().unwrap());
            } else {
                options.hyperparameters.push(((*name).into(), (*value).into()));
            }
        }
        self.deploy_with(name, version, &options).await.unwrap()
    }

    /// Deploys a component signed by the trusted publisher, with all options.
    pub async fn deploy_with(
        &self,
        name: &str,
        version: &str,
        options: &DeployOptions,
    ) -> Result<Deployment, ClientError> {
        self.client("deployer").await.deploy(self.publisher.sign(name, version), options).await
    }

    /// The server's status, with the digest of all weights.
    pub async fn status(&self) -> ServerStatus {
        self.client("operator").await.status(true).await.unwrap()
    }

    /// The digest of all weights.
    pub async fn digest(&self) -> String {
        self.status().await.weights_digest.unwrap()
    }

    fn stop(&mut self) {
        if let Some(Running { stop, thread, .. }) = self.running.take() {
            // A server that panicked no longer receives the request to stop.
            let _ = stop.send(());
            thread.join().expect("the server has panicked");
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test has already failed, and its clients may still be connected.
            self.running = None;
        } else {
            self.stop();
        }
    }
}

/// Runs the server that is configured in a folder, in a separate runtime, so that a test cannot block it.
fn run(folder: &Path) -> (SocketAddr, Running) {
    let config = Config::load(&folder.join("server.toml")).unwrap();
    let (stop, stopped) = oneshot::channel();
    let (listening, address) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::bind(config).await.unwrap();
            listening.send((server.local_address(), server.reloader())).unwrap();
            // A test that ends without stopping the server stops it too, by dropping the sender.
            server.run(async { drop(stopped.await) }).await;
        });
    });
    let (address, reloader) = address.recv().expect("the server starts");
    (address, Running { stop, reloader, thread })
}
