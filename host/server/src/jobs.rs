//! All jobs of a server, and which of them a connection belongs to.
//!
//! A job shares with others the listener, the runtime and the limits on connections that have not said hello. Everything
//! else it has for itself: keys, optimizers, sandbox and its memory, shard threads, workers, ledger, cache. Threads
//! are not lent from job to job: one that runs a component runs it to its end, seconds in a bad case, and nobody else's
//! round is to wait for that. The system divides the cores among the threads of jobs that have something to do.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use stepbox_sandbox::{Compiler, Sandbox};
use stepbox_trust::{TrustStore, VersionLedger};
use stepbox_wire::{DEFAULT_JOB, ErrorCode, Protection};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::audit::Audit;
use crate::config::Config;
use crate::deployment::{ARCHIVE_FOLDER, ARCHIVE_INDEX};
use crate::identity::Identity;
use crate::job::Job;
use crate::limits::Limits;
use crate::log_health::LogHealth;
use crate::refusal::{Answered, Refusal};
use crate::reload::Warnings;
use crate::server::ServerError;
use crate::settings::{JobSettings, settings};
use crate::shard::{ShardThreads, Shards};
use crate::state;

/// File in a job's state directory with the versions that were deployed.
const LEDGER_FILE: &str = "versions.toml";

/// What all connections share.
pub(crate) struct Jobs {
    by_name: BTreeMap<String, Arc<Job>>,
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
    /// Sets up all jobs of a configuration. Returns the threads they run on, too.
    pub fn start(
        config: &Config,
        compiler: &Compiler,
        audit: Audit,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(Self, Vec<ShardThreads>), ServerError> {
        let (mut by_name, mut threads) = (BTreeMap::new(), Vec::new());
        let (protections, log, warnings) = (Arc::default(), Arc::default(), Arc::<Warnings>::default());
        for settings in settings(config)? {
            let name = settings.name.clone();
            let (job, own) = start(settings, compiler.clone(), shutdown.clone(), Arc::clone(&warnings))?;
            let job = job.told(audit.of_job(&name), Arc::clone(&protections), Arc::clone(&log));
            by_name.insert(name, Arc::new(job));
            threads.push(own);
        }
        let (limits, refusals) = (config.limits.clone(), AtomicU64::new(0));
        let jobs = Self { by_name, limits, audit, protections, log, warnings, refusals };
        Ok((jobs, threads))
    }

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

fn start(
    settings: JobSettings,
    compiler: Compiler,
    shutdown: watch::Receiver<bool>,
    warnings: Arc<Warnings>,
) -> Result<(Job, ShardThreads), ServerError> {
    // Read again for each deployment; read now so that a server that could never deploy does not start.
    TrustStore::load(&settings.trust.store)?;
    let state = &settings.state_directory;
    if settings.name != DEFAULT_JOB
        && let Some(jobs) = state.parent()
    {
        state::prepare(jobs, &[])?;
    }
    state::prepare(state, &[LEDGER_FILE, ARCHIVE_FOLDER, ARCHIVE_INDEX])?;
    let ledger = VersionLedger::load(state.join(LEDGER_FILE))?;
    let sandbox = Sandbox::new(settings.sandbox.clone())?.with_compiler(compiler);
    let sandbox = settings.cache.give_to(sandbox, state);
    let identities = settings.job.workers.iter().map(|name| Identity::new(name)).collect::<Result<Vec<_>, _>>()?;
    let (shards, threads) = Shards::start(settings.shard_threads, settings.limits.shard_answer_seconds.duration())
        .map_err(ServerError::Threads)?;
    tracing::info!(job = settings.name, workers = identities.len(), shard_threads = shards.count(), "a job is set up");
    Ok((Job::new(settings, sandbox, shards, ledger, identities, shutdown, warnings), threads))
}
