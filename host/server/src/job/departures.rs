//! How workers go: by a goodbye, a broken connection, or the operator's decision.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::Job;
use super::membership::{Membership, Run};
use super::workers::{Worker, not_registered};
use crate::audit::{Action, Event};
use crate::names::Answered;

impl Job {
    /// A worker says goodbye.
    pub fn leave(&self, worker: Worker) -> Answered<()> {
        self.depart(|members| members.leave(worker.rank, worker.connection)).then_some(()).ok_or_else(not_registered)
    }

    /// A connection has ended without a goodbye: its worker has a while to come back.
    pub fn disconnected(self: &Arc<Self>, worker: Worker) {
        if !self.workers.disconnect(worker) {
            return;
        }
        let grace = self.config.job.reconnect_grace_seconds.duration();
        tracing::warn!(
            job = self.config.name,
            rank = worker.rank,
            ?grace,
            "a worker's connection has ended without a goodbye"
        );
        // A server that has stopped, or stops meanwhile, has nothing to note.
        let Ok(runtime) = Handle::try_current() else { return };
        let job = Arc::downgrade(self);
        runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            let Some(job) = job.upgrade() else { return };
            if job.depart(|members| members.grace_over(worker.rank, worker.connection)) {
                job.note_lost(worker, "it did not come back in time");
            }
        });
    }

    /// A worker's part in the job was taken away while it was connected: nobody waits for it to come back.
    pub fn dismissed(&self, worker: Worker) {
        let lost = self.depart(|members| {
            members.disconnect(worker.rank, worker.connection);
            members.grace_over(worker.rank, worker.connection)
        });
        if lost {
            self.note_lost(worker, "the operator has taken its part away");
        }
    }

    fn note_lost(&self, worker: Worker, reason: &str) {
        let identity = self.workers.members.borrow().identity(worker.rank).clone();
        tracing::error!(job = self.config.name, %identity, rank = worker.rank, reason, "a worker is lost");
        let (rank, connection) = (worker.rank.to_string(), worker.connection.to_string());
        let details = [("rank", rank.as_str()), ("connection", &connection)];
        self.audit.note(&Event::noted(Action::Lost).by(&identity).because(reason).with(&details));
    }

    /// A worker goes, or does not. Returns which. Where the run ends by it, all that belonged to the run is void before
    /// anybody can join the next.
    fn depart(&self, how: impl FnOnce(&mut Membership) -> (bool, Run)) -> bool {
        let (gone, run) = self.workers.depart(how, || {
            self.rendezvous.abandon();
            self.model.all().iter().for_each(|key| key.abandon_round());
        });
        if run == Run::Ended {
            tracing::info!(
                job = self.config.name,
                "all workers have left: the next run starts with open rounds emptied and barriers at 1"
            );
        }
        gone
    }
}
