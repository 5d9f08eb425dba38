//! For how long a shard thread has been at one job.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a shard thread is at, for others to see. Written twice a job, so it is no lock.
#[derive(Debug)]
pub(super) struct Busy {
    origin: Instant,
    /// When the job began, in nanoseconds after `origin` and at least 1; 0 between jobs.
    since: AtomicU64,
}

impl Default for Busy {
    fn default() -> Self {
        Self { origin: Instant::now(), since: AtomicU64::new(0) }
    }
}

impl Busy {
    /// Does a job.
    pub fn during(&self, job: impl FnOnce()) {
        self.since.store(self.now(), Ordering::Release);
        job();
        self.since.store(0, Ordering::Release);
    }

    /// For how long the thread has been at its job; `None` where it waits for one.
    pub fn time(&self) -> Option<Duration> {
        match self.since.load(Ordering::Acquire) {
            0 => None,
            since => Some(Duration::from_nanos(self.now().saturating_sub(since))),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}
