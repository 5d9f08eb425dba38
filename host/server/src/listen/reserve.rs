//! A file descriptor in reserve, so that a server that has no other left still answers, one peer after the other.
//!
//! Without it a peer waits in the system's queue until its own time-out, and learns nothing.

use std::io::{self, PipeReader};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stepbox_tls::{Acceptor, Established};
use stepbox_wire::ErrorCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::limiting::Arrivals;
use crate::names::Refusal;
use crate::session;

/// How long a peer has for its handshake and to take the answer: as long as all others wait for their turn.
const TURN: Duration = Duration::from_secs(2);

/// The descriptor. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Reserve(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Something that a descriptor can be duplicated from without opening a file, which the process may not do any
    /// more.
    source: Option<PipeReader>,
    spare: Option<PipeReader>,
}

impl Reserve {
    /// With a descriptor, where there is one now.
    pub fn new() -> Self {
        let source = io::pipe().ok().map(|(reader, _)| reader);
        let reserve = Self(Arc::new(Mutex::new(State { source, spare: None })));
        reserve.fill();
        reserve
    }

    /// Takes a descriptor again, where it is used and one is free.
    pub fn fill(&self) {
        let State { source, spare } = &mut *self.0.lock();
        if spare.is_none() {
            *spare = source.as_ref().and_then(|source| source.try_clone().ok());
        }
    }

    /// Accepts a connection in the descriptor's place, where the listener could not for want of one.
    pub async fn accept(
        &self,
        listener: &TcpListener,
        error: &io::Error,
        at_most: Duration,
    ) -> Option<(TcpStream, SocketAddr)> {
        if !is_exhausted(error) {
            return None;
        }
        drop(self.0.lock().spare.take()?);
        let accepted = timeout(at_most, listener.accept()).await;
        let accepted = accepted.ok().and_then(Result::ok);
        if accepted.is_none() {
            self.fill();
        }
        accepted
    }

    /// Tells a peer why it cannot be served, and takes the descriptor back. A peer that would not have been let in
    /// anyway is not answered.
    pub fn turn_away(
        &self,
        (stream, peer): (TcpStream, SocketAddr),
        acceptor: Acceptor,
        arrivals: Arc<Arrivals>,
    ) -> impl Future<Output = ()> + use<> {
        let reserve = self.clone();
        async move {
            if let Ok(arrival) = arrivals.enter(peer.ip(), Instant::now()) {
                let told = async {
                    arrival.turn().await;
                    let Ok(Established { reader, writer, .. }) = acceptor.accept(stream).await else { return };
                    session::turn_away((reader, writer), refusal()).await;
                };
                // Whether or not it listens.
                let _ = timeout(TURN, told).await;
            } else {
                drop(stream);
            }
            reserve.fill();
        }
    }
}

fn refusal() -> Refusal {
    Refusal::new(
        ErrorCode::Busy,
        "the server has no file descriptor left for another connection. Its operator must raise the process's limit on \
         open files (LimitNOFILE, ulimit -n) or lower limits.connections; try again later",
    )
}

/// Whether the process, or the whole system, has no descriptor left.
#[cfg(unix)]
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(not(unix))]
fn is_exhausted(_: &io::Error) -> bool {
    false
}
