//! A connection from its acceptance to its session: handshake, identity, limits.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use stepbox_tls::Established;
use stepbox_wire::ErrorCode;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use crate::audit::{Action, Audit, Event};
use crate::job::Jobs;
use crate::limiting::{Accounts, Arrival, Failed};
use crate::logging::LogThrottle;
use crate::names::{ConnectionId, Identity, Refusal};
use crate::peer::{CertificateWatch, Tls};
use crate::session::{self, Peer};

/// After this much silence the kernel asks whether a peer is still there, [`KEEPALIVE_INTERVAL`] apart: a machine that
/// lost power says nothing, and would count as connected.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// See [`KEEPALIVE_IDLE`].
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Of limits that anybody can meet as often as he likes: told of as seldom as the log tells of them, with how many there
/// were `before`.
pub(super) fn note_limit(audit: &Audit, peer: SocketAddr, reason: &str, before: u64) {
    let before = before.to_string();
    audit.note(&Event::refused(Action::Limit, reason).from(peer).with(&[("before", &before)]));
}

/// A connection that has room, before it is known whose it is.
pub(super) struct Admitted {
    pub jobs: Arc<Jobs>,
    pub accounts: Arc<Accounts>,
    /// Of log lines that anybody can cause.
    pub throttle: Arc<LogThrottle>,
    pub arrival: Arrival,
    pub connection: ConnectionId,
    pub shutdown: watch::Receiver<bool>,
    pub tls: watch::Receiver<Arc<Tls>>,
    pub permit: OwnedSemaphorePermit,
}

impl Admitted {
    pub async fn serve(mut self, stream: TcpStream, peer: SocketAddr) {
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
        let counted = match self.accounts.enter(&identity, Instant::now().into_std()) {
            Ok(counted) => counted,
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
        let (account, shutdown) = (Arc::clone(counted.account()), self.shutdown.clone());
        let certificate = CertificateWatch::new(certificates, self.tls.clone());
        let known = Peer { identity, certificate, connection: self.connection, account };
        let jobs = Arc::clone(&self.jobs);
        if let Err(unwelcome) = session::serve(jobs, (reader, writer), known, greeting, shutdown).await {
            self.failed(peer, Action::Connect, format_args!("refused: {unwelcome}"));
        }
        drop(counted);
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
