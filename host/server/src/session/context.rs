//! What the tasks of a connection share.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stepbox_wire::{RequestId, Response, UNADDRESSED};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::ahead::PullsAhead;
use super::answers::{Answer, Content};
use super::refusals::refused;
use crate::audit::{Action, Event};
use crate::job::{Job, Worker};
use crate::limiting::Account;
use crate::model::Key;
use crate::names::{Answered, ConnectionId, Identity, Refusal, TensorId};

/// How long waiting requests have to be answered when the server stops.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// What the tasks of a connection share.
pub(super) struct Context {
    pub job: Arc<Job>,
    pub identity: Identity,
    pub connection: ConnectionId,
    /// Set while this connection speaks for a worker.
    pub worker: Arc<Mutex<Option<Worker>>>,
    pub answers: mpsc::Sender<Answer>,
    pub outstanding: Arc<Semaphore>,
    pub most_outstanding: usize,
    pub ahead: Arc<PullsAhead>,
    /// What this identity does by all its connections.
    pub account: Arc<Account>,
    /// Keys whose weights were read, for the audit log.
    pub read: Mutex<HashSet<TensorId>>,
}

impl Context {
    /// Whether nothing is expected of this connection and nothing owed to it: it speaks for no worker, who may compute
    /// for as long as it takes, and no request of its waits.
    pub fn is_idle(&self) -> bool {
        self.worker.lock().is_none() && self.outstanding.available_permits() == self.most_outstanding
    }

    /// Notes that the key's weights are read, the first time.
    pub fn note_read(&self, key: &Key) {
        if self.read.lock().insert(key.id) {
            self.job.audit.note(&Event::allowed(Action::Read).by(&self.identity).about(&key.name));
        }
    }

    /// Answers a request, with the refusal where that is its outcome.
    pub async fn answer(&self, id: RequestId, request: &str, key: &str, outcome: Answered<Content>) {
        let content = outcome.unwrap_or_else(|refusal| {
            self.account.refused(refusal.code);
            Content::Message(Response::Failed(refused(&self.job, &self.identity, request, key, refusal)))
        });
        // Where the peer takes no answers any more, the connection is about to end.
        let _ = self.answers.send(Answer { id, content }).await;
    }

    /// Tells the peer why its connection ends.
    pub async fn say_farewell(&self, refusal: Refusal) {
        // Where the queue is full the peer does not read, and need not be told.
        let _ = timeout(FAREWELL, self.answer(UNADDRESSED, "connection", "", Err(refusal))).await;
    }
}
