//! Accepts connections, within limits, until it is told to stop.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use stepbox_sandbox::{Sandbox, SandboxError};
use stepbox_tls::{Acceptor, Established};
use stepbox_trust::{LedgerError, TrustStore, TrustStoreError, VersionLedger};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::deployment;
use crate::identity::{Identity, IdentityError};
use crate::job::Job;
use crate::membership::ConnectionId;
use crate::reload::Reload;
use crate::session;
use crate::shard::{ShardThreads, Shards};
use crate::tls::{TlsError, acceptor};

/// File in the state directory with the versions that were deployed.
const LEDGER_FILE: &str = "versions.toml";

/// After this much silence the kernel asks whether a peer is still there, [`KEEPALIVE_INTERVAL`] apart: a machine that
/// lost power says nothing, and would count as connected.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// See [`KEEPALIVE_IDLE`].
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long a listener that cannot accept rests before it tries again: the usual reason is that no file descriptor is
/// left, which trying harder does not mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections have to end when the server stops, each of which answers what waits and lingers a moment.
const DRAIN: Duration = Duration::from_secs(5);

/// A parameter server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Acceptor,
    job: Arc<Job>,
    threads: ShardThreads,
    shutdown: watch::Sender<bool>,
    reload: Reload,
}

/// Why a server does not start. The operator's to mend, unless a variant says otherwise.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Certificates and keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store of publishers.
    #[error(transparent)]
    Trust(#[from] TrustStoreError),
    /// The state directory cannot be made.
    #[error("cannot make the state directory {}: {source}", path.display())]
    StateDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The ledger of versions.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A worker's name.
    #[error("`job.workers` in the configuration: {0}")]
    Identity(#[from] IdentityError),
    /// The shard threads cannot be started: the machine has no room for them.
    #[error("cannot start the shard threads: {0}")]
    Threads(io::Error),
}

impl Server {
    /// Sets everything up and listens. Nobody is served before [`Server::run`].
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let tls = acceptor(&config.tls)?;
        // Read again while it runs; read now so that a server that could never deploy does not start.
        TrustStore::load(&config.trust.store)?;
        std::fs::create_dir_all(&config.state_directory)
            .map_err(|source| ServerError::StateDirectory { path: config.state_directory.clone(), source })?;
        let ledger = VersionLedger::load(config.state_directory.join(LEDGER_FILE))?;
        let sandbox = config.cache.give_to(Sandbox::new(config.sandbox.clone())?, &config.state_directory);
        let identities = config.job.workers.iter().map(|name| Identity::new(name)).collect::<Result<Vec<_>, _>>()?;
        let listening = |source| ServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let (shards, threads) = Shards::start(config.shard_threads()).map_err(ServerError::Threads)?;
        let (shutdown, stops) = watch::channel(false);
        let job = Arc::new(Job::new(config, sandbox, shards, ledger, identities, stops));
        tracing::info!(%address, workers = job.workers, shard_threads = job.shards.count(), "listening");
        Ok(Self { listener, address, tls, job, threads, shutdown, reload: Reload::new() })
    }

    /// What tells the server, while it runs, to look at its files again.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Where it listens: the port that was taken, where the configuration says 0.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` ends. Then requests that wait are answered with `busy`, connections are closed and the shard
    /// threads end.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listener, tls, job, threads, shutdown, reload, .. } = self;
        tokio::spawn(deployment::watch(Arc::downgrade(&job), reload.requests(), shutdown.subscribe()));
        let connections = Arc::new(Connections::default());
        let room = Arc::new(Semaphore::new(job.config.limits.connections.min(Semaphore::MAX_PERMITS)));
        let mut sessions = JoinSet::new();
        let mut next_connection: ConnectionId = 0;
        tokio::pin!(stop);
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::error!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                Some(ended) = sessions.join_next() => {
                    note_panic(ended);
                    continue;
                }
                () = &mut stop => break,
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                tracing::warn!(%peer, "refused: all connections are taken (limits.connections)");
                continue;
            };
            next_connection += 1;
            let admitted = Admitted {
                job: Arc::clone(&job),
                connections: Arc::clone(&connections),
                connection: next_connection,
                shutdown: shutdown.subscribe(),
                permit,
            };
            sessions.spawn(admitted.serve(tls.clone(), stream, peer));
        }

        tracing::info!("stopping");
        drop(listener);
        shutdown.send_replace(true);
        let drained = tokio::time::timeout(DRAIN, async {
            while let Some(ended) = sessions.join_next().await {
                note_panic(ended);
            }
        });
        if drained.await.is_err() {
            tracing::warn!(connections = sessions.len(), "closing connections that did not end in time");
            sessions.shutdown().await;
        }
        match Arc::try_unwrap(job) {
            Ok(job) => {
                // Dropping the way to them ends the threads.
                drop(job);
                let _ = tokio::task::spawn_blocking(|| threads.join()).await;
            }
            // A round or a deployment is still running; the threads end with it.
            Err(_) => tracing::debug!("the shard threads end after the work in hand"),
        }
        tracing::info!("stopped");
    }
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task has panicked");
    }
}

/// A connection that has room, before it is known whose it is.
struct Admitted {
    job: Arc<Job>,
    connections: Arc<Connections>,
    connection: ConnectionId,
    shutdown: watch::Receiver<bool>,
    permit: OwnedSemaphorePermit,
}

impl Admitted {
    async fn serve(mut self, tls: Acceptor, stream: TcpStream, peer: SocketAddr) {
        let greeted_by = Instant::now() + self.job.config.limits.handshake_seconds.duration();
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%peer, %error, "socket options could not be set");
        }
        let handshake = tokio::select! {
            handshake = timeout_at(greeted_by, tls.accept(stream)) => handshake,
            _ = self.shutdown.wait_for(|stops| *stops) => return,
        };
        let Established { reader, writer, certificates } = match handshake {
            Ok(Ok(established)) => established,
            Ok(Err(error)) => {
                tracing::warn!(%peer, %error, "refused: the TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::warn!(%peer, "refused: no TLS handshake in time (limits.handshake_seconds)");
                return;
            }
        };
        let identity = match Identity::of(&certificates) {
            Ok(identity) => identity,
            Err(error) => {
                tracing::warn!(%peer, %error, "refused: the peer's certificate names nobody");
                return;
            }
        };
        let limit = self.job.config.limits.connections_per_identity;
        let Some(_place) = self.connections.enter(&identity, limit) else {
            tracing::warn!(%peer, %identity, "refused: too many connections (limits.connections_per_identity)");
            return;
        };
        let greeting = greeted_by.saturating_duration_since(Instant::now());
        session::serve(self.job, (reader, writer), identity, self.connection, greeting, self.shutdown).await;
        drop(self.permit);
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Frames are written whole; waiting for more only delays answers.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// How many connections each identity has.
#[derive(Debug, Default)]
struct Connections(Mutex<HashMap<Identity, usize>>);

/// One of an identity's connections.
struct Place {
    connections: Arc<Connections>,
    identity: Identity,
}

impl Connections {
    fn enter(self: &Arc<Self>, identity: &Identity, limit: usize) -> Option<Place> {
        let mut counts = self.0.lock();
        let count = counts.entry(identity.clone()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { connections: Arc::clone(self), identity: identity.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.connections.0.lock();
        if let Some(count) = counts.get_mut(&self.identity) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.identity);
            }
        }
    }
}
