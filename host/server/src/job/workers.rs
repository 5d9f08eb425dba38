//! The workers of a job: their presence and their barrier.

use stepbox_wire::{ErrorCode, Response};
use tokio::sync::watch;

use super::barrier::Barrier;
use super::membership::{Membership, Run};
use crate::names::{Answered, ConnectionId, Identity, Rank, Refusal};

/// A worker as one connection speaks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Worker {
    pub rank: Rank,
    pub connection: ConnectionId,
}

/// The presence of a job's workers, and the barrier that they meet at.
pub(crate) struct Workers {
    /// The number of workers in the configuration.
    pub count: u32,
    /// Locked before `deployments`, `barrier` and a key's state, never after, and only once at a time: so the end of a
    /// run empties them before anybody joins the next, and what a worker sends counts only while it is connected.
    ///
    /// Connections watch it to notice that they were replaced. Who waits for workers watches `departures`.
    pub members: watch::Sender<Membership>,
    /// Told when a worker is lost or has left, and after `members`: nothing else that happens to workers ends a wait.
    pub departures: watch::Sender<()>,
    /// The barrier that workers meet at.
    pub barrier: watch::Sender<Barrier>,
}

impl Workers {
    pub fn new(identities: Vec<Identity>) -> Self {
        let count = identities.len();
        Self {
            count: u32::try_from(count).unwrap_or(u32::MAX),
            members: watch::Sender::new(Membership::new(identities)),
            departures: watch::Sender::new(()),
            barrier: watch::Sender::new(Barrier::new(count)),
        }
    }

    /// The answer to a worker that is registered by its connection already, as nothing changes by it.
    pub fn is_registered(&self, worker: Worker) -> Option<Response> {
        let members = self.members.borrow();
        let barrier = members.is_connected(worker.rank, worker.connection).then(|| self.barrier.borrow().passed())?;
        Some(Response::Registered { rank: worker.rank, workers: self.count, barrier })
    }

    /// A worker joins, or comes back. Returns the connection it replaces, if there is one.
    pub fn register(&self, worker: Worker) -> (Response, Option<ConnectionId>) {
        let (mut replaced, mut barrier) = (None, 0);
        self.members.send_modify(|members| {
            replaced = members.connect(worker.rank, worker.connection);
            barrier = self.barrier.borrow().passed();
        });
        (Response::Registered { rank: worker.rank, workers: self.count, barrier }, replaced)
    }

    /// A connection has ended. Returns whether its worker's grace starts. Nobody is told yet: the worker may come back.
    pub fn disconnect(&self, worker: Worker) -> bool {
        let mut broke = false;
        self.members.send_if_modified(|members| {
            broke = members.disconnect(worker.rank, worker.connection);
            false
        });
        broke
    }

    /// A worker goes, or does not. Returns whether it has gone, and what that has done to the run. Where the run ends by it,
    /// `end_run` is called before anybody can join the next.
    pub fn depart(&self, how: impl FnOnce(&mut Membership) -> (bool, Run), end_run: impl FnOnce()) -> (bool, Run) {
        let mut outcome = (false, Run::GoesOn);
        self.members.send_if_modified(|members| {
            outcome = how(members);
            if outcome.1 == Run::Ended {
                self.barrier.send_modify(Barrier::reset);
                end_run();
            }
            outcome.0
        });
        if outcome.0 {
            self.departures.send_replace(());
        }
        outcome
    }

    /// Counts a worker at a barrier, if it is connected. Returns whether the barrier is passed.
    pub fn arrive(&self, worker: Worker, number: u64) -> Answered<bool> {
        // Held until it is counted: the run cannot end in between.
        let members = self.members.borrow();
        if !members.is_connected(worker.rank, worker.connection) {
            return Err(not_registered());
        }
        let mut arrived = Ok(false);
        // Only a barrier that opens is news to those who wait.
        self.barrier.send_if_modified(|barrier| {
            arrived = barrier.arrive(worker.rank, number);
            arrived == Ok(true)
        });
        arrived.map_err(|wrong| Refusal::new(ErrorCode::OutOfOrder, wrong.to_string()))
    }
}

pub(crate) fn not_registered() -> Refusal {
    Refusal::new(ErrorCode::OutOfOrder, "this connection speaks for no worker; register first")
}
