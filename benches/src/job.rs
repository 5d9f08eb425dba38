//! A server and its workers, as an operator would set them up, on this machine: real certificates, TLS, signatures.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, io};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use stepbox_client::{Client, ClientConfig, ClientError, DeployOptions, ServerStatus};
use stepbox_server::{Config, ConfigError, Server, ServerError};
use stepbox_trust::{KeyError, SignError, SigningKey, sign};
use tempfile::TempDir;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// What the names of the server's own threads start with: its runtime's, the shards', and the engine's clock.
const THREADS: [&str; 3] = ["stepbox-server", "shard-", "stepbox-epoch"];

/// Who deploys and looks after the server.
const OPERATOR: &str = "operator";

/// A running server with everything that its peers need. It stops when this value is dropped.
pub struct Job {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
    publisher: SigningKey,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), JobError>>>,
}

/// Why there is no job to measure.
#[derive(Debug, Error)]
pub enum JobError {
    /// A file, a thread or a socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A certificate.
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The publisher's key.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The component's signature.
    #[error("{0}")]
    Sign(#[from] SignError),
    /// The server's configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The server.
    #[error("{0}")]
    Server(#[from] ServerError),
    /// A client.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// A thread of the measurement has panicked.
    #[error("a thread has panicked")]
    Panicked,
}

impl Job {
    /// Starts a server for this many workers, with as many threads for its network as it has shard threads.
    ///
    /// # Errors
    /// Something that it needs cannot be had.
    pub fn start(workers: usize, threads: usize) -> Result<Self, JobError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = TempDir::new()?;
        fs::write(folder.path().join("ca.pem"), issuer.pem())?;
        let publisher = SigningKey::generate()?;
        let trust = format!("[[publisher]]\nname = 'Bench'\npublic_key = '{}'\n[end]\n", publisher.public_key());
        fs::write(folder.path().join("publishers.toml"), trust)?;
        issue(&issuer, folder.path(), "server")?;
        let names: Vec<String> = (0..workers).map(worker_name).collect();
        let configuration = format!(
            "listen = '127.0.0.1:0'\nstate_directory = 'state'\nshard_threads = {threads}\n\
             [tls]\nca = 'ca.pem'\ncertificate = 'server.pem'\nkey = 'server.key'\n[job]\nworkers = {names:?}\n\
             [access]\ndeployers = ['{OPERATOR}']\npublishers = ['{OPERATOR}']\n[trust]\nstore = 'publishers.toml'\n"
        );
        fs::write(folder.path().join("server.toml"), configuration)?;
        let config = Config::load(&folder.path().join("server.toml"))?;
        let (stop, stopped) = oneshot::channel();
        let (listening, address) = std::sync::mpsc::channel();
        let runtime =
            Builder::new_multi_thread().worker_threads(threads).thread_name("stepbox-server").enable_all().build()?;
        let thread = std::thread::Builder::new().name("stepbox-server".into()).spawn(move || {
            runtime.block_on(async {
                let server = Server::bind(config).await?;
                // Whoever starts it waits for this.
                let _ = listening.send(server.local_address());
                server.run(async { drop(stopped.await) }).await;
                Ok(())
            })
        })?;
        match address.recv() {
            Ok(address) => Ok(Self { issuer, folder, publisher, address, stop: Some(stop), thread: Some(thread) }),
            Err(_) => Err(thread.join().unwrap_or(Err(JobError::Panicked)).err().unwrap_or(JobError::Panicked)),
        }
    }

    /// A runtime as a worker has one: a worker is a process of its own and needs one thread.
    ///
    /// # Errors
    /// The machine has none.
    pub fn runtime() -> Result<Runtime, JobError> {
        Ok(Builder::new_current_thread().enable_all().build()?)
    }

    /// A registered worker.
    ///
    /// # Errors
    /// It cannot connect.
    pub async fn worker(&self, rank: usize) -> Result<Client, JobError> {
        let client = self.client(&worker_name(rank)).await?;
        client.register().await?;
        Ok(client)
    }

    /// Signs and deploys a component under a name.
    ///
    /// # Errors
    /// It is no component that the server takes.
    pub async fn deploy(&self, component: &[u8], name: &str, learning_rate: f64) -> Result<(), JobError> {
        let signed = sign(component, name, "1.0.0", &self.publisher)?;
        let options = DeployOptions { learning_rate: Some(learning_rate), ..DeployOptions::default() };
        self.client(OPERATOR).await?.deploy(signed, &options).await?;
        Ok(())
    }

    /// How the server is.
    ///
    /// # Errors
    /// It does not say.
    pub async fn status(&self) -> Result<ServerStatus, JobError> {
        Ok(self.client(OPERATOR).await?.status(false).await?)
    }

    /// Processor time that the server's threads have used so far. `None` where the system does not tell.
    pub fn processor_time() -> Option<Duration> {
        let threads = fs::read_dir("/proc/self/task").ok()?.filter_map(Result::ok);
        let mut total = None;
        for thread in threads {
            let Ok(name) = fs::read_to_string(thread.path().join("comm")) else { continue };
            if !THREADS.iter().any(|prefix| name.starts_with(&prefix[..prefix.len().min(15)])) {
                continue;
            }
            // The first number is nanoseconds on a processor.
            let used = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let used = used.split_whitespace().next()?.parse().ok()?;
            *total.get_or_insert(Duration::ZERO) += Duration::from_nanos(used);
        }
        total
    }

    /// The files of a new certificate: for TLS by other means than a client's.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn credentials(&self, identity: &str) -> Result<Credentials, JobError> {
        let (certificate, key) = issue(&self.issuer, self.folder.path(), identity)?;
        Ok(Credentials { authority: self.folder.path().join("ca.pem"), certificate, key })
    }

    async fn client(&self, identity: &str) -> Result<Client, JobError> {
        let Credentials { authority, certificate, key } = self.credentials(identity)?;
        Ok(Client::connect(&ClientConfig::new(self.address.to_string(), authority, certificate, key)).await?)
    }
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The peer's certificate, for 127.0.0.1 too.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            // However it ended, it has ended.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

/// Has each worker do something on a thread and a runtime of its own, all at the same time.
///
/// # Errors
/// The first worker's that failed.
pub fn on_workers<T: Send + 'static, W: Future<Output = Result<T, JobError>>>(
    job: &Arc<Job>,
    workers: usize,
    work: impl Fn(usize, Client) -> W + Clone + Send + 'static,
) -> Result<Vec<T>, JobError> {
    let start = |rank| {
        let (job, work) = (Arc::clone(job), work.clone());
        std::thread::Builder::new()
            .name(worker_name(rank))
            .spawn(move || Job::runtime()?.block_on(async { work(rank, job.worker(rank).await?).await }))
    };
    let threads = (0..workers).map(start).collect::<Result<Vec<_>, _>>()?;
    threads.into_iter().map(|thread| thread.join().unwrap_or(Err(JobError::Panicked))).collect()
}

fn worker_name(rank: usize) -> String {
    format!("worker-{rank}")
}

fn issue(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    folder: &Path,
    identity: &str,
) -> Result<(PathBuf, PathBuf), JobError> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, identity);
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()])?;
    params.distinguished_name = subject;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    let (certificate_file, key_file) = (folder.join(format!("{identity}.pem")), folder.join(format!("{identity}.key")));
    fs::write(&certificate_file, certificate.pem())?;
    fs::write(&key_file, key.serialize_pem())?;
    #[cfg(unix)]
    fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok((certificate_file, key_file))
}
