//! Accepts connections, within limits, until it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use stepbox_audit::AuditError;
use stepbox_sandbox::{Compiler, SandboxError};
use stepbox_tls::Established;
use stepbox_trust::{LedgerError, TrustStoreError};
use stepbox_wire::{ErrorCode, Protection};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::reload::{Files, Reloader};
use super::reserve::Reserve;
use super::state_directory::{StateError, StateLock};
use super::{start, state_directory};
use crate::audit::{Action, Audit, Event};
use crate::config::{Config, ConfigError};
use crate::job::Jobs;
use crate::limiting::{Accounts, Arrival, Arrivals, Failed};
use crate::logging::{LogHealth, LogThrottle};
use crate::names::{ConnectionId, Identity, IdentityError, Refusal};
use crate::peer::{CertificateWatch, Tls, TlsError, own_name};
use crate::session::Peer;
use crate::shard::ShardThreads;
use crate::{deploy, session};

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
    /// SHA-256 of the configuration, for the audit log.
    configuration: String,
    shutdown: watch::Sender<bool>,
    state_lock: StateLock,
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
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The ledger of versions.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
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
    /// Sets everything up and listens. Nobody is served before [`Server::run`]. Optimizers are compiled in this process,
    /// which nothing bounds: see [`Server::bind_with`].
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        Self::bind_with(config, Compiler::InProcess).await
    }

    /// As [`bind`](Self::bind), with somebody else to compile optimizers.
    pub async fn bind_with(config: Config, compiler: Compiler) -> Result<Self, ServerError> {
        let tls = watch::Sender::new(Arc::new(Tls::load(&config.tls)?));
        let broker = match &compiler {
            Compiler::Broker(broker) => Some(broker.process_id()),
            Compiler::InProcess => None,
        };
        tracing::info!(%compiler, broker, "where optimizers are compiled");
        let listening = |source| ServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        state_directory::prepare(&config.state_directory, &[])?;
        let state_lock = StateLock::take(&config.state_directory)?;
        if config.audit.enabled {
            state_directory::prepare(&config.audit.directory_in(&config.state_directory), &[])?;
        }
        // Late, so that what is not going to run has no log that says it started.
        let audit = Audit::open(&config, &own_name(&config.tls)?)?;
        let (shutdown, stops) = watch::channel(false);
        let (jobs, threads) = start::all_jobs(&config, &compiler, audit, &stops)?;
        tracing::info!(%address, jobs = threads.len(), "listening");
        let (jobs, configuration) = (Arc::new(jobs), config.digest.clone());
        let files = Files::new(config, Arc::clone(&jobs), tls.clone())?;
        let reloader = Reloader::new();
        Ok(Self { listener, address, tls, files, reloader, jobs, threads, configuration, shutdown, state_lock })
    }

    /// Where it listens: the port that was taken, where the configuration says 0.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Has the status and the audit log tell what the process is protected by.
    #[must_use]
    pub fn protected_by(self, protections: Vec<Protection>) -> Self {
        // The first word stands.
        let _ = self.jobs.protections.set(protections);
        self
    }

    /// Has the status tell how the log is that the process writes. Without it the status says nothing of a log.
    #[must_use]
    pub fn logging_to(self, log: Arc<LogHealth>) -> Self {
        // The first word stands.
        let _ = self.jobs.log.set(log);
        self
    }

    /// With this the server, once it runs, can be told to read its files again.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Serves until `stop` ends. Then requests that wait are answered with `busy`, connections are closed and the shard
    /// threads end.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listener, address, tls, files, reloader, jobs, threads, configuration, shutdown, state_lock } = self;
        // The first line of a run, before anybody else has one to write.
        note_start(&jobs, &configuration, address);
        let audit = jobs.audit.clone();
        for job in jobs.all() {
            tokio::spawn(deploy::watch(Arc::downgrade(job), reloader.requests(), shutdown.subscribe()));
        }
        let watching = tokio::spawn(files.watch(reloader.requests()));
        let limits = &jobs.limits;
        let arrivals = Arc::new(Arrivals::new(limits, Instant::now().into_std()));
        let accounts = Arc::new(Accounts::new(limits));
        let throttle = Arc::new(LogThrottle::default());
        let room = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        let reserve = Reserve::new();
        let mut sessions = JoinSet::new();
        let mut next_connection: ConnectionId = 0;
        // Where many were turned away, not before this.
        let mut accept_from = Instant::now();
        tokio::pin!(stop);
        loop {
            let (stream, peer) = tokio::select! {
                accepted = accept(&listener, accept_from) => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        if let Some(before) = throttle.allow(Instant::now().into_std()) {
                            tracing::error!(%error, before, "cannot accept a connection");
                        }
                        match reserve.accept(&listener, &error, ACCEPT_PAUSE).await {
                            Some((stream, peer)) => {
                                let acceptor = tls.borrow().acceptor.clone();
                                sessions.spawn(reserve.turn_away((stream, peer), acceptor, Arc::clone(&arrivals)));
                            }
                            None => tokio::time::sleep(ACCEPT_PAUSE).await,
                        }
                        continue;
                    }
                },
                Some(ended) = sessions.join_next() => {
                    note_panic(ended);
                    reserve.fill();
                    continue;
                }
                () = &mut stop => break,
            };
            let now = Instant::now().into_std();
            let arrival = match arrivals.enter(peer.ip(), now) {
                Ok(arrival) => arrival,
                Err(reason) => {
                    if let Some(before) = throttle.allow(now) {
                        tracing::warn!(%peer, %reason, before, "refused: the connection is closed before TLS");
                        note_limit(&audit, peer, &reason.to_string(), before);
                    }
                    accept_from = Instant::now() + arrivals.turned_away(now);
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                if let Some(before) = throttle.allow(now) {
                    tracing::warn!(%peer, before, "refused: all connections are taken (limits.connections)");
                    note_limit(&audit, peer, "all connections are taken (limits.connections)", before);
                }
                accept_from = Instant::now() + arrivals.turned_away(now);
                continue;
            };
            next_connection += 1;
            let admitted = Admitted {
                jobs: Arc::clone(&jobs),
                accounts: Arc::clone(&accounts),
                throttle: Arc::clone(&throttle),
                arrival,
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
        audit.close().await;
        // Now another server may have the state.
        drop(state_lock);
        tracing::info!("stopped");
    }
}

fn note_start(jobs: &Jobs, configuration: &str, address: SocketAddr) {
    let protections = jobs.protections.get().into_iter().flatten().filter(|protection| protection.active);
    let protections: Vec<_> = protections.map(|protection| protection.name.as_str()).collect();
    let (address, protections) = (address.to_string(), protections.join(" "));
    let details = [
        ("software", env!("CARGO_PKG_VERSION")),
        ("configuration", configuration),
        ("address", &address),
        ("protections", &protections),
    ];
    jobs.audit.note(&Event::noted(Action::Start).with(&details));
}

async fn accept(listener: &TcpListener, from: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    if from > Instant::now() {
        tokio::time::sleep_until(from).await;
    }
    listener.accept().await
}

/// Of limits that anybody can meet as often as he likes: told of as seldom as the log tells of them, with how many there
/// were `before`.
fn note_limit(audit: &Audit, peer: SocketAddr, reason: &str, before: u64) {
    let before = before.to_string();
    audit.note(&Event::refused(Action::Limit, reason).from(peer).with(&[("before", &before)]));
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
    accounts: Arc<Accounts>,
    /// Of log lines that anybody can cause.
    throttle: Arc<LogThrottle>,
    arrival: Arrival,
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
        let has_begun = AtomicBool::new(false);
        let shake_hands = async {
            self.arrival.turn().await;
            has_begun.store(true, Ordering::Relaxed);
            acceptor.accept(stream).await
        };
        let handshake = tokio::select! {
            handshake = timeout_at(greeted_by, shake_hands) => handshake,
            () = self.arrival.displaced() => {
                if let Some(before) = self.throttle.allow(Instant::now().into_std()) {
                    tracing::warn!(%peer, before, "refused: it gives way to others (limits.half_open)");
                    note_limit(&self.jobs.audit, peer, "gives way to others (limits.half_open)", before);
                }
                return;
            }
            _ = self.shutdown.wait_for(|stops| *stops) => return,
        };
        let Established { reader, writer, certificates } = match handshake {
            Ok(Ok(established)) => established,
            Ok(Err(error)) => {
                return self.failed(
                    peer,
                    Action::Handshake,
                    format_args!("refused: the TLS handshake failed: {error}"),
                );
            }
            Err(_) if has_begun.into_inner() => {
                let reason = "refused: no TLS handshake in time (limits.handshake_seconds)";
                return self.failed(peer, Action::Handshake, format_args!("{reason}"));
            }
            Err(_) => {
                // Not its fault, or not this one's.
                let limits = "limits.handshakes_per_second, limits.handshakes_per_second_per_address";
                if let Some(before) = self.throttle.allow(Instant::now().into_std()) {
                    tracing::warn!(%peer, before, limits, "refused: its turn did not come in time");
                    note_limit(&self.jobs.audit, peer, limits, before);
                }
                return;
            }
        };
        self.arrival.is_known();
        let identity = match Identity::of(&certificates) {
            Ok(identity) => identity,
            Err(error) => {
                self.failed(
                    peer,
                    Action::Connect,
                    format_args!("refused: the peer's certificate names nobody: {error}"),
                );
                let message = format!("your certificate does not say who you are: {error}. Have another one issued");
                let refusal = Refusal::new(ErrorCode::NoIdentity, message);
                return session::turn_away((reader, writer), refusal).await;
            }
        };
        self.arrival.is_authenticated();
        let place = match self.accounts.enter(&identity, Instant::now().into_std()) {
            Ok(place) => place,
            Err(refusal) => {
                tracing::warn!(%peer, %identity, reason = refusal.message, "refused: too many connections");
                self.jobs.audit.note(&Event::refused(Action::Limit, &refusal.message).by(&identity).from(peer));
                session::turn_away((reader, writer), refusal).await;
                return;
            }
        };
        let connection = self.connection.to_string();
        let details = [("connection", connection.as_str())];
        self.jobs.audit.note(&Event::allowed(Action::Connect).by(&identity).from(peer).with(&details));
        let greeting = greeted_by.saturating_duration_since(Instant::now());
        let (account, shutdown) = (Arc::clone(place.account()), self.shutdown.clone());
        let certificate = CertificateWatch::new(certificates, self.tls.clone());
        let known = Peer { identity, certificate, connection: self.connection, account };
        let jobs = Arc::clone(&self.jobs);
        if let Err(unwelcome) = session::serve(jobs, (reader, writer), known, greeting, shutdown).await {
            self.failed(peer, Action::Connect, format_args!("refused: {unwelcome}"));
        }
        drop(place);
        drop(self.permit);
    }

    /// A failure of its peer's is noted and counted against where it comes from. Once that is shut out, what had begun
    /// before is not worth a line each.
    fn failed(&self, peer: SocketAddr, action: Action, reason: std::fmt::Arguments<'_>) {
        let failed = self.arrival.failed(Instant::now().into_std());
        if failed == Failed::Again {
            tracing::debug!(%peer, "{reason}");
            return;
        }
        tracing::warn!(%peer, "{reason}");
        self.jobs.audit.note(&Event::refused(action, &reason.to_string()).from(peer));
        if let Failed::ShutOut(time) = failed {
            let (seconds, limit) = (time.as_secs_f64(), "limits.failures_per_minute_per_address");
            tracing::warn!(%peer, seconds, limit, "shut out: too many failed handshakes from there");
            self.jobs.audit.note(&Event::refused(Action::Limit, limit).from(peer));
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Frames are written whole; waiting for more only delays answers.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
