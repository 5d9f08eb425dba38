//! The end of a worker's connection, however it comes.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::job::{Job, Worker};

/// The worker that a connection speaks for, if any. When this is dropped, by a return, a panic or the end of the
/// connection's task, the worker counts as disconnected: others must not wait for one that nobody speaks for.
pub(super) struct Speaker {
    job: Arc<Job>,
    worker: Arc<Mutex<Option<Worker>>>,
}

impl Speaker {
    /// Of a connection that keeps its worker here.
    pub(super) fn new(job: &Arc<Job>, worker: &Arc<Mutex<Option<Worker>>>) -> Self {
        Self { job: Arc::clone(job), worker: Arc::clone(worker) }
    }

    /// Ends it where the operator has taken the worker's part away: nobody waits for it to come back.
    pub(super) fn dismiss(self) {
        if let Some(worker) = self.worker.lock().take() {
            self.job.dismissed(worker);
        }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        // Not within the lock, which is held where a panic unwinds in between.
        let worker = self.worker.lock().take();
        if let Some(worker) = worker {
            self.job.disconnected(worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Presence;

    #[tokio::test]
    async fn a_session_that_panics_leaves_no_worker_behind() {
        let (job, _key, _threads) = crate::job::tests::job();
        let worker = Worker { rank: 1, connection: 11 };
        job.workers.register(worker);
        let session = Arc::clone(&job);
        let session = tokio::spawn(async move {
            let _speaker = Speaker::new(&session, &Arc::new(Mutex::new(Some(worker))));
            panic!("on purpose, to see what becomes of the worker");
        });
        assert!(session.await.expect_err("it panics").is_panic());
        assert_eq!(job.workers.members.borrow().presence(1), Presence::Interrupted(11), "its grace runs");
    }

    #[tokio::test]
    async fn a_session_that_is_ended_from_outside_leaves_no_worker_behind() {
        let (job, _key, _threads) = crate::job::tests::job();
        let worker = Worker { rank: 1, connection: 11 };
        job.workers.register(worker);
        let speaker = Speaker::new(&job, &Arc::new(Mutex::new(Some(worker))));
        let session = tokio::spawn(async move {
            let _speaker = speaker;
            std::future::pending::<()>().await;
        });
        session.abort();
        assert!(session.await.expect_err("it was ended").is_cancelled());
        assert_eq!(job.workers.members.borrow().presence(1), Presence::Interrupted(11));
    }
}
