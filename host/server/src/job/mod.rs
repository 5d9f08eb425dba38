//! The job: everything that all its connections share, and the requests of its workers.
//!
//! Nothing here knows of frames or sockets. What waits, waits for a change of the key, the barrier or the membership,
//! and never longer than the round's time-out; the message at its end names who was waited for.

mod attribution;
mod barrier;
mod departures;
mod jobs;
mod membership;
mod rendezvous;
mod tasks;
mod turns;
mod waiting;
mod warnings;
mod workers;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use stepbox_sandbox::Sandbox;
use stepbox_trust::VersionLedger;
use stepbox_wire::{ErrorCode, Protection};
use tokio::sync::{MutexGuard, Semaphore, watch};

use crate::audit::Audit;
use crate::component::Components;
use crate::config::JobSettings;
use crate::limiting::Rooms;
use crate::logging::LogHealth;
use crate::model::{Key, Model, Pushed, check_loss};
use crate::names::{Answered, Rank, Refusal};
use crate::optimizer::Deployments;
use crate::peer::Access;
use crate::shard::Shards;
use crate::tensor::Contribution;

pub(crate) use attribution::{Magnitudes, Offenders};
pub(crate) use jobs::Jobs;
pub(crate) use membership::Presence;
pub(crate) use rendezvous::{MeetingFailure, Occasion, Part, Rendezvous};
pub(crate) use tasks::{off_the_runtime, panicked};
pub(crate) use turns::{Progress, Turn, Turns};
pub(crate) use warnings::Warnings;
pub(crate) use workers::{Worker, Workers, not_registered};

/// What all connections of a job share.
pub(crate) struct Job {
    pub config: JobSettings,
    pub access: Access,
    pub workers: Workers,
    pub started: Instant,
    pub sandbox: Sandbox,
    pub shards: Shards,
    pub model: Arc<Model>,
    /// Which optimizer updates what. Locked for reading while a gradient is counted, and for writing while the round of
    /// a take-over is chosen, so that no key runs that round before it is chosen.
    pub deployments: RwLock<Deployments>,
    /// Taken by whoever adds a key or an optimizer, so that no key misses an optimizer.
    pub structure: tokio::sync::Mutex<Structure>,
    pub components: Components,
    /// One deployment at a time: each holds a component and compiles it. Rollbacks have a turn of their own.
    pub turns: Turns,
    /// One digest of all weights at a time: each keeps them in memory, and has a thread hash them.
    pub digesting: Arc<Semaphore>,
    /// For bodies under way.
    pub rooms: Rooms,
    /// Whether a gradient was counted, or is about to be.
    pub has_begun: AtomicBool,
    pub statistics: Statistics,
    /// Of the whole server.
    pub warnings: Arc<Warnings>,
    pub audit: Audit,
    /// Of those that the job may have.
    pub connections: Arc<Semaphore>,
    /// For the status: what the process is protected by, once that is known.
    pub protections: Arc<OnceLock<Vec<Protection>>>,
    /// For the status: how the process's log is, where somebody says so.
    pub log: Arc<OnceLock<Arc<LogHealth>>>,
    /// By whose gradients rounds fail.
    pub offenders: Offenders,
    /// Where keys meet whose optimizer combines them.
    pub rendezvous: Rendezvous,
    shutdown: watch::Receiver<bool>,
}

/// What is counted while keys and optimizers are added.
#[derive(Debug, Default)]
pub(crate) struct Structure {
    /// Elements that each shard owns.
    pub load: Vec<u64>,
    /// The number the next key gets.
    pub next_key: u64,
    /// The number the next deployment gets.
    pub next_optimizer: u64,
}

/// What a status tells of the past.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    pub updates: AtomicU64,
    pub update_nanoseconds: AtomicU64,
    pub refusals: AtomicU64,
}

impl Statistics {
    pub fn count_update(&self, duration: Duration) {
        self.updates.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.update_nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Job {
    pub fn new(
        config: JobSettings,
        sandbox: Sandbox,
        shards: Shards,
        ledger: VersionLedger,
        identities: Vec<crate::names::Identity>,
        shutdown: watch::Receiver<bool>,
        warnings: Arc<Warnings>,
    ) -> Self {
        let structure = Structure { load: vec![0; shards.count()], ..Structure::default() };
        Self {
            access: Access::new(&config.job, &config.access, config.access_section()),
            workers: Workers::new(identities),
            started: Instant::now(),
            sandbox,
            shards,
            model: Arc::default(),
            deployments: RwLock::default(),
            structure: tokio::sync::Mutex::new(structure),
            components: Components::open(&config, ledger),
            turns: Turns::default(),
            digesting: Arc::new(Semaphore::new(1)),
            rooms: Rooms::new(config.limits.receiving_bytes, config.limits.sending_bytes),
            has_begun: AtomicBool::new(false),
            statistics: Statistics::default(),
            warnings,
            audit: Audit::default(),
            connections: Arc::new(Semaphore::new(config.limits.connections.min(Semaphore::MAX_PERMITS))),
            protections: Arc::default(),
            log: Arc::default(),
            offenders: Offenders::default(),
            rendezvous: Rendezvous::default(),
            shutdown,
            config,
        }
    }

    /// The same job, whose events go there, and which knows what its process is protected by and how its log is.
    pub fn with_audit(
        self,
        audit: Audit,
        protections: Arc<OnceLock<Vec<Protection>>>,
        log: Arc<OnceLock<Arc<LogHealth>>>,
    ) -> Self {
        Self { audit, protections, log, ..self }
    }

    /// Whether the server stops.
    pub fn is_stopping(&self) -> bool {
        *self.shutdown.borrow()
    }

    /// The right to add a key or an optimizer, which somebody else may have for a while.
    pub async fn lock_structure(&self) -> Answered<MutexGuard<'_, Structure>> {
        self.shards.unless_stuck(async { Ok(self.structure.lock().await) }).await
    }

    /// Holds a push against the key before its body is read. Returns whether it is a repetition.
    pub fn check_push(&self, key: &Key, rank: Rank, round: u64, loss: Option<f32>) -> Answered<bool> {
        let Some(optimizer) = self.deployments.read().of_round(key.placed_with(), round) else {
            return Err(no_optimizer_for(&format!("a gradient of key `{}` cannot be applied", key.name)));
        };
        let repeated = key.is_repeated(rank, round).map_err(|wrong| wrong_round(key, &wrong))?;
        let needed_by = optimizer.component.description().needs_loss.then_some(&*optimizer.status.name);
        if !repeated {
            if self.is_refused(key, rank) {
                return Err(Refusal::new(ErrorCode::Forbidden, self.refused_for_failures(key, rank)));
            }
            optimizer.paused().map_or(Ok(()), Err)?;
            check_loss(key, needed_by, loss)?;
        }
        Ok(repeated)
    }

    /// Counts a gradient if the worker is still connected as it was when it began to send. A caller that gets
    /// [`Pushed::Completed`] must start the update.
    pub fn count(&self, key: &Key, worker: Worker, round: u64, contribution: Contribution) -> Answered<Pushed> {
        // Held until it is counted: the run cannot end in between.
        let members = self.workers.members.borrow();
        if !members.is_connected(worker.rank, worker.connection) {
            return Err(not_registered());
        }
        let deployments = self.deployments.read();
        if let Some(paused) = deployments.of_round(key.placed_with(), round).and_then(|optimizer| optimizer.paused()) {
            return Err(paused);
        }
        self.has_begun.store(true, Ordering::Release);
        key.push(worker.rank, round, contribution).map_err(|wrong| wrong_round(key, &wrong))
    }

    /// Whether so many rounds of a key have failed by this worker's gradients that no more are taken.
    fn is_refused(&self, key: &Key, rank: Rank) -> bool {
        let most = self.config.job.refuse_after_failures;
        most.is_some_and(|most| self.offenders.failures(key.id, rank) >= most)
    }

    fn refused_for_failures(&self, key: &Key, rank: Rank) -> String {
        format!(
            "gradients of {} (rank {rank}) for key `{}` are not taken any more: {} rounds in a row have failed by them \
             (job.refuse_after_failures); the operator deploys an optimizer, or restarts the server, to have them taken",
            self.workers.members.borrow().identity(rank),
            key.name,
            self.offenders.failures(key.id, rank)
        )
    }

    /// Why a round cannot end that is not being computed: the optimizer that would update it is paused.
    fn paused(&self, key: &Key, round: u64) -> Option<Refusal> {
        self.deployments.read().of_round(key.placed_with(), round)?.paused()
    }
}

pub(crate) fn no_optimizer_for(what_cannot_be: &str) -> Refusal {
    let message = format!("no optimizer is deployed, so {what_cannot_be}: deploy one (`stepbox deploy`)");
    Refusal::new(ErrorCode::NoOptimizer, message)
}

fn wrong_round(key: &Key, wrong: &crate::model::WrongRound) -> Refusal {
    Refusal::new(ErrorCode::WrongRound, format!("key `{}`: {wrong}", key.name))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use stepbox_wire::Response;

    use super::*;
    use crate::job::Presence;
    use crate::model::PullState;
    use crate::model::key::tests::zeros;
    use crate::names::ConnectionId;
    use crate::names::Identity;
    use crate::shard::ShardThreads;

    /// A job of two workers with many keys, of which the last is returned.
    pub(crate) fn job() -> (Arc<Job>, Arc<Key>, ShardThreads) {
        job_with(Duration::MAX)
    }

    /// The same, with so much patience for its shard.
    fn job_with(patience: Duration) -> (Arc<Job>, Arc<Key>, ShardThreads) {
        let text = r#"
            listen = "127.0.0.1:0"
            state_directory = "state"
            tls = { ca = "ca.pem", certificate = "server.pem", key = "server.key" }
            job = { workers = ["worker-0", "worker-1"] }
            trust = { store = "publishers.toml" }
        "#;
        let config = crate::config::Config::parse(text, Path::new("/nowhere")).expect("a configuration");
        let config = crate::config::settings(&config).expect("one job").remove(0);
        let identities = config.job.workers.iter().map(|name| Identity::new(name).expect("a name")).collect();
        let sandbox = Sandbox::new(config.sandbox.clone()).expect("a sandbox");
        let (shards, threads) = Shards::start(1, patience).expect("a thread");
        let ledger = VersionLedger::load(std::path::Path::new("/nowhere/ledger")).expect("an empty ledger");
        let job = Job::new(config, sandbox, shards, ledger, identities, watch::channel(false).1, Arc::default());
        for number in 0..1000 {
            let key = crate::model::key::tests::key(&number.to_string(), 2);
            let room = job.model.room(&key.name, &key.tensor, &job.config.limits).expect("there is room");
            job.model.add(Arc::new(key), room);
        }
        let key = job.model.all().pop().expect("a key");
        (Arc::new(job), key, threads)
    }

    #[tokio::test]
    async fn whatever_needs_a_shard_that_is_stuck_is_refused_at_once_and_the_status_says_why() {
        let (job, _, threads) = job_with(Duration::ZERO);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let held = move |_: &mut crate::shard::Shard| {
            begun.send(()).expect("the test waits");
            wait.recv().expect("told to go on");
        };
        job.shards.submit(0, held).await.expect("queued");
        has_begun.await.expect("it begins");

        let by = Identity::new("operator").expect("a name");
        let wanted = crate::deploy::Wanted::Former { to: None };
        let turn = job.turns.roll_back().await.expect("nobody else is at it");
        let rollback = crate::deploy::deploy(Arc::clone(&job), by, wanted, turn).await;
        let locked = job.lock_structure().await.map(drop);
        let digest = crate::report::weights_digest(&job).await;
        for refused in [rollback.map(drop), locked, digest.map(drop)] {
            assert_eq!(refused.map_err(|refusal| refusal.reason), Err(Some("shard-stuck")));
        }
        let status = crate::report::status(&job, None);
        assert!(status.warnings.iter().any(|warning| warning.contains("shard thread 0")), "{:?}", status.warnings);
        go.send(()).expect("it waits");
        drop(job);
        threads.join();
    }

    fn worker(rank: Rank, connection: ConnectionId) -> Worker {
        Worker { rank, connection }
    }

    fn registered(job: &Job, worker: Worker) -> u64 {
        match job.workers.register(worker).0 {
            Response::Registered { barrier, .. } => barrier,
            other => panic!("not an answer to a registration: {other:?}"),
        }
    }

    fn missing(key: &Key) -> Vec<Rank> {
        match key.pull_state(Some(0), key.version() + 1) {
            PullState::Waiting { missing, .. } => missing,
            _ => Vec::new(),
        }
    }

    #[test]
    fn what_a_replaced_connection_sent_changes_nothing() {
        let (job, key, _threads) = job();
        let (before, now) = (worker(1, 11), worker(1, 21));
        job.workers.register(before);
        job.workers.register(now);
        assert!(crate::round::push(&job, &key, before, 1, zeros()).is_err());
        assert_eq!(missing(&key), [0, 1]);
        assert!(job.workers.arrive(before, 1).is_err());
        assert!(job.leave(before).is_err());
        assert_eq!(crate::round::push(&job, &key, now, 1, zeros()).ok(), Some(false));
        assert_eq!(missing(&key), [0]);
    }

    #[test]
    fn nobody_joins_the_next_run_before_the_last_is_emptied() {
        let (job, key, _threads) = job();
        for connection in 0..100 {
            let (first, second, next) = (worker(0, connection), worker(1, connection), worker(1, 10_000 + connection));
            assert_eq!((registered(&job, first), registered(&job, second)), (0, 0), "each run starts afresh");
            assert_eq!(missing(&key), [0, 1]);
            assert_eq!(job.workers.arrive(first, 1).ok(), Some(false));
            assert_eq!(job.workers.arrive(second, 1).ok(), Some(true));
            assert!(job.leave(second).is_ok());

            // One worker ends the run while the other waits for nothing but that, and joins the next.
            let barrier = std::thread::scope(|scope| {
                scope.spawn(|| assert!(job.leave(first).is_ok()));
                while job.workers.members.borrow().presence(0) != Presence::Absent {
                    std::hint::spin_loop();
                }
                let barrier = registered(&job, next);
                assert_eq!(crate::round::push(&job, &key, next, 1, zeros()).ok(), Some(false));
                barrier
            });
            assert_eq!(barrier, 0, "a number of the run before");
            assert_eq!(missing(&key), [0], "a gradient that was counted stays counted");
            assert!(job.leave(next).is_ok());
        }
    }
}
