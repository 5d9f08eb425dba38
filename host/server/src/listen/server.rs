//! Accepts connections, within limits, until it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stepbox_sandbox::Compiler;
use stepbox_wire::Protection;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{Admitted, note_limit};
use super::error::ServerError;
use super::reload::{Files, Reloader};
use super::reserve::Reserve;
use super::state_directory::StateLock;
use super::{start, state_directory};
use crate::audit::{Action, Audit, Event};
use crate::config::Config;
use crate::deploy;
use crate::job::Jobs;
use crate::limiting::{Accounts, Arrivals};
use crate::logging::{LogHealth, LogThrottle};
use crate::names::ConnectionId;
use crate::peer::{Tls, own_name};
use crate::shard::ShardThreads;

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

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task has panicked");
    }
}
