//! Accepts connections, within limits, until it is told to stop.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use stepbox_sandbox::SandboxError;
use stepbox_tls::Established;
use stepbox_trust::{LedgerError, TrustStoreError};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::config::{Config, ConfigError};
use crate::identity::{Identity, IdentityError};
use crate::jobs::Jobs;
use crate::membership::ConnectionId;
use crate::reload::{Files, Reloader};
use crate::session::{self, Peer};
use crate::shard::ShardThreads;
use crate::standing::Standing;
use crate::tls::{Tls, TlsError};

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
    tls: watch::Sender<Arc<Tls>>,
    files: Files,
    reloader: Reloader,
    jobs: Arc<Jobs>,
    threads: Vec<ShardThreads>,
    shutdown: watch::Sender<bool>,
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
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
        let tls = watch::Sender::new(Arc::new(Tls::load(&config.tls)?));
        let listening = |source| ServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let (shutdown, stops) = watch::channel(false);
        let (jobs, threads) = Jobs::start(&config, &stops)?;
        tracing::info!(%address, jobs = threads.len(), "listening");
        let jobs = Arc::new(jobs);
        let files = Files::new(config, Arc::clone(&jobs), tls.clone())?;
        Ok(Self { listener, address, tls, files, reloader: Reloader::new(), jobs, threads, shutdown })
    }

    /// Where it listens: the port that was taken, where the configuration says 0.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// With this the server, once it runs, can be told to read its files again.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Serves until `stop` ends. Then requests that wait are answered with `busy`, connections are closed and the shard
    /// threads end.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listener, tls, files, reloader, jobs, threads, shutdown, .. } = self;
        let watching = tokio::spawn(files.watch(reloader.requests()));
        let connections = Arc::new(Connections::default());
        let room = Arc::new(Semaphore::new(jobs.limits.connections.min(Semaphore::MAX_PERMITS)));
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
                jobs: Arc::clone(&jobs),
                connections: Arc::clone(&connections),
                connection: next_connection,
                shutdown: shutdown.subscribe(),
                tls: tls.subscribe(),
                permit,
            };
            sessions.spawn(admitted.serve(stream, peer));
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
        watching.abort();
        // Aborted or at its end.
        let _ = watching.await;
        let is_at_rest = Arc::strong_count(&jobs) == 1 && jobs.all().all(|job| Arc::strong_count(job) == 1);
        // Dropping the way to them ends the threads.
        drop(jobs);
        if is_at_rest {
            let _ = tokio::task::spawn_blocking(|| threads.into_iter().for_each(ShardThreads::join)).await;
        } else {
            // A round or a deployment is still running; the threads end with it.
            tracing::debug!("the shard threads end after the work in hand");
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
    jobs: Arc<Jobs>,
    connections: Arc<Connections>,
    connection: ConnectionId,
    shutdown: watch::Receiver<bool>,
    tls: watch::Receiver<Arc<Tls>>,
    permit: OwnedSemaphorePermit,
}

impl Admitted {
    async fn serve(mut self, stream: TcpStream, peer: SocketAddr) {
        let greeted_by = Instant::now() + self.jobs.limits.handshake_seconds.duration();
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%peer, %error, "socket options could not be set");
        }
        let acceptor = self.tls.borrow_and_update().acceptor.clone();
        let handshake = tokio::select! {
            handshake = timeout_at(greeted_by, acceptor.accept(stream)) => handshake,
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
        let limit = self.jobs.limits.connections_per_identity;
        let Some(_place) = self.connections.enter(&identity, limit) else {
            tracing::warn!(%peer, %identity, "refused: too many connections (limits.connections_per_identity)");
            return;
        };
        let greeting = greeted_by.saturating_duration_since(Instant::now());
        let peer = Peer { identity, standing: Standing::new(certificates, self.tls), connection: self.connection };
        session::serve(self.jobs, (reader, writer), peer, greeting, self.shutdown).await;
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
