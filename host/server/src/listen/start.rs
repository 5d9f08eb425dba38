//! Sets up a server's jobs: folders, ledgers, sandboxes and shard threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use stepbox_sandbox::{Compiler, Sandbox};
use stepbox_trust::{TrustStore, VersionLedger};
use stepbox_wire::DEFAULT_JOB;
use tokio::sync::watch;

use super::error::ServerError;
use super::state_directory;
use crate::audit::Audit;
use crate::component::{ARCHIVE_FOLDER, ARCHIVE_INDEX};
use crate::config::{Config, JobSettings, settings};
use crate::job::{Job, Jobs, Warnings};
use crate::names::Identity;
use crate::shard::{ShardThreads, Shards};

/// File in a job's state directory with the versions that were deployed.
const LEDGER_FILE: &str = "versions.toml";

/// Sets up all jobs of a configuration. Returns the threads they run on, too.
pub(crate) fn all_jobs(
    config: &Config,
    compiler: &Compiler,
    audit: Audit,
    shutdown: &watch::Receiver<bool>,
) -> Result<(Jobs, Vec<ShardThreads>), ServerError> {
    let (mut by_name, mut threads) = (BTreeMap::new(), Vec::new());
    let (protections, log, warnings) = (Arc::default(), Arc::default(), Arc::<Warnings>::default());
    for settings in settings(config)? {
        let name = settings.name.clone();
        let (job, own) = one_job(settings, compiler.clone(), shutdown.clone(), Arc::clone(&warnings))?;
        let job = job.with_audit(audit.of_job(&name), Arc::clone(&protections), Arc::clone(&log));
        by_name.insert(name, Arc::new(job));
        threads.push(own);
    }
    let (limits, refusals) = (config.limits.clone(), AtomicU64::new(0));
    let jobs = Jobs { by_name, limits, audit, protections, log, warnings, refusals };
    Ok((jobs, threads))
}

fn one_job(
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
        state_directory::prepare(jobs, &[])?;
    }
    state_directory::prepare(state, &[LEDGER_FILE, ARCHIVE_FOLDER, ARCHIVE_INDEX])?;
    let ledger = VersionLedger::load(state.join(LEDGER_FILE))?;
    let sandbox = Sandbox::new(settings.sandbox.clone())?.with_compiler(compiler);
    let sandbox = settings.cache.give_to(sandbox, state);
    let identities = settings.job.workers.iter().map(|name| Identity::new(name)).collect::<Result<Vec<_>, _>>()?;
    let (shards, threads) = Shards::start(settings.shard_threads, settings.limits.shard_answer_seconds.duration())
        .map_err(ServerError::Threads)?;
    tracing::info!(job = settings.name, workers = identities.len(), shard_threads = shards.count(), "a job is set up");
    Ok((Job::new(settings, sandbox, shards, ledger, identities, shutdown, warnings), threads))
}
