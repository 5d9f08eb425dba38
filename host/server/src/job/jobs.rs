//! All jobs of a server, and which of them a connection belongs to.
//!
//! A job shares with others the listener, the runtime and the limits on connections that have not said hello. Everything
//! else it has for itself: keys, optimizers, sandbox and its memory, shard threads, workers, ledger, cache. Threads
//! are not lent from job to job: one that runs a component runs it to its end, seconds in a bad case, and nobody else's
//! round is to wait for that. The system divides the cores among the threads of jobs that have something to do.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use stepbox_wire::{DEFAULT_JOB, ErrorCode, Protection};
use tokio::sync::OwnedSemaphorePermit;

use super::{Job, Warnings};
use crate::audit::Audit;
use crate::config::Limits;
use crate::logging::LogHealth;
use crate::names::{Answered, Identity, Refusal};

/// What all connections share.
pub(crate) struct Jobs {
    pub by_name: BTreeMap<String, Arc<Job>>,
    /// Of the whole server.
    pub limits: Limits,
    /// Of what belongs to no job.
    pub audit: Audit,
    /// What the process is protected by, once that is known.
    pub protections: Arc<OnceLock<Vec<Protection>>>,
    /// How the process's log is, where somebody says so.
    pub log: Arc<OnceLock<Arc<LogHealth>>>,
    /// What an operator should see to.
    pub warnings: Arc<Warnings>,
    /// Refusals that belong to no job.
    pub refusals: AtomicU64,
}

impl Jobs {
    /// All jobs, in order of name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.by_name.values()
    }

    /// The job of this name, which a peer says; empty for the default one.
    pub fn named(&self, name: &str) -> Option<&Arc<Job>> {
        self.by_name.get(if name.is_empty() { DEFAULT_JOB } else { name })
    }

    /// Lets an identity into a job. Whoever has no part in it gets the same answer whether or not there is such a job.
    pub fn enter(&self, name: &str, identity: &Identity) -> Answered<(Arc<Job>, OwnedSemaphorePermit)> {
        let member = self.named(name).filter(|job| job.access.of(identity).is_some());
        let Some(job) = member else {
            let name = if name.is_empty() { DEFAULT_JOB } else { name };
            let message = format!(
                "`{identity}` has no part in a job `{name}` of this server; the operator names workers in [job] or \
                 [jobs.NAME], others in its section `access`, and clients choose the job"
            );
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        };
        let place = Arc::clone(&job.connections).try_acquire_owned().map_err(|_| {
            let (limit, section) = (job.config.limits.connections, &job.config.section);
            let message = format!("job `{name}` has its {limit} connections already ({section}.limits.connections)");
            Refusal::new(ErrorCode::Busy, message)
        })?;
        Ok((Arc::clone(job), place))
    }
}
