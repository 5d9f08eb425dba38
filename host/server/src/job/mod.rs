//! The job: everything that all its connections share, and the requests of its workers.
//!
//! Nothing here knows of frames or sockets. What waits, waits for a change of the key, the barrier or the membership,
//! and never longer than the round's time-out; the message at its end names who was waited for.

mod attribution;
mod barrier;
mod jobs;
mod membership;
mod rendezvous;
mod tasks;
mod turns;
mod warnings;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use stepbox_sandbox::Sandbox;
use stepbox_trust::VersionLedger;
use stepbox_wire::{ErrorCode, Protection, Response, TensorType};
use tokio::runtime::Handle;
use tokio::sync::{MutexGuard, Semaphore, watch};

use crate::audit::{Action, Audit, Event};
use crate::component::{Archive, Shown, Trust};
use crate::config::{JobSettings, Seconds};
use crate::limiting::Rooms;
use crate::logging::LogHealth;
use crate::model::{Key, Model, PullState, Pushed, check_loss, check_type};
use crate::names::{Answered, ConnectionId, Rank, Refusal, TensorId};
use crate::optimizer::Deployments;
use crate::peer::Access;
use crate::shard::Shards;
use crate::tensor::Contribution;

pub(crate) use attribution::{Magnitudes, Offenders};
pub(crate) use jobs::Jobs;
pub(crate) use membership::{Membership, Presence};
pub(crate) use rendezvous::{MeetingFailure, Occasion, Part, Rendezvous};
pub(crate) use tasks::{off_the_runtime, panicked};
pub(crate) use turns::{Progress, Turn, Turns};
pub(crate) use warnings::Warnings;

use barrier::Barrier;
use membership::Run;

/// Keys that a message names: it is to be read, and there can be thousands.
const MAX_NAMED_KEYS: usize = 5;

/// What all connections of a job share.
pub(crate) struct Job {
    pub config: JobSettings,
    pub access: Access,
    pub workers: u32,
    pub started: Instant,
    pub sandbox: Sandbox,
    pub shards: Shards,
    pub model: Arc<Model>,
    /// Which optimizer updates what. Locked for reading while a gradient is counted, and for writing while the round of
    /// a take-over is chosen, so that no key runs that round before it is chosen.
    pub deployments: RwLock<Deployments>,
    /// Taken by whoever adds a key or an optimizer, so that no key misses an optimizer.
    pub structure: tokio::sync::Mutex<Structure>,
    pub ledger: Mutex<VersionLedger>,
    /// Components to go back to, and those submitted.
    pub archive: Mutex<Archive>,
    /// Those to go back to.
    pub previous: Shown,
    /// The trust file.
    pub trust: Trust,
    /// One deployment at a time: each holds a component and compiles it. Rollbacks have a turn of their own.
    pub turns: Turns,
    /// One submission at a time, for the same reason, and beside deployments: whoever may only submit must not be able to
    /// hold up a rollback.
    pub submitting: Arc<Semaphore>,
    /// One digest of all weights at a time: each keeps them in memory, and has a thread hash them.
    pub digesting: Arc<Semaphore>,
    /// For bodies under way.
    pub rooms: Rooms,
    /// Locked before `deployments`, `barrier` and a key's state, never after, and only once at a time: so the end of a
    /// run empties them before anybody joins the next, and what a worker sends counts only while it is connected.
    ///
    /// Connections watch it to notice that they were replaced. Who waits for workers watches `departures`.
    pub members: watch::Sender<Membership>,
    /// Told when a worker is lost or has left, and after `members`: nothing else that happens to workers ends a wait.
    departures: watch::Sender<()>,
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
    barrier: watch::Sender<Barrier>,
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

/// A worker as one connection speaks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Worker {
    pub rank: Rank,
    pub connection: ConnectionId,
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
        let workers = identities.len();
        let archive = Archive::open(&config.state_directory);
        let structure = Structure { load: vec![0; shards.count()], ..Structure::default() };
        Self {
            access: Access::new(&config.job, &config.access, config.access_section()),
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
            started: Instant::now(),
            sandbox,
            shards,
            model: Arc::default(),
            deployments: RwLock::default(),
            structure: tokio::sync::Mutex::new(structure),
            ledger: Mutex::new(ledger),
            previous: archive.shown(),
            archive: Mutex::new(archive),
            trust: Trust::new(&config.trust, &config.limits),
            turns: Turns::default(),
            submitting: Arc::new(Semaphore::new(1)),
            digesting: Arc::new(Semaphore::new(1)),
            rooms: Rooms::new(config.limits.receiving_bytes, config.limits.sending_bytes),
            members: watch::Sender::new(Membership::new(identities)),
            departures: watch::Sender::new(()),
            has_begun: AtomicBool::new(false),
            statistics: Statistics::default(),
            warnings,
            audit: Audit::default(),
            connections: Arc::new(Semaphore::new(config.limits.connections.min(Semaphore::MAX_PERMITS))),
            protections: Arc::default(),
            log: Arc::default(),
            offenders: Offenders::default(),
            rendezvous: Rendezvous::default(),
            barrier: watch::Sender::new(Barrier::new(workers)),
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

    // Membership.

    /// The answer to a worker that is registered by its connection already, as nothing changes by it.
    pub fn is_registered(&self, worker: Worker) -> Option<Response> {
        let members = self.members.borrow();
        let barrier = members.is_connected(worker.rank, worker.connection).then(|| self.barrier.borrow().passed())?;
        Some(Response::Registered { rank: worker.rank, workers: self.workers, barrier })
    }

    /// A worker joins, or comes back. Returns the connection it replaces, if there is one.
    pub fn register(&self, worker: Worker) -> (Response, Option<ConnectionId>) {
        let (mut replaced, mut barrier) = (None, 0);
        self.members.send_modify(|members| {
            replaced = members.connect(worker.rank, worker.connection);
            barrier = self.barrier.borrow().passed();
        });
        (Response::Registered { rank: worker.rank, workers: self.workers, barrier }, replaced)
    }

    /// A worker says goodbye.
    pub fn leave(&self, worker: Worker) -> Answered<()> {
        self.depart(|members| members.leave(worker.rank, worker.connection)).then_some(()).ok_or_else(not_registered)
    }

    /// A connection has ended without a goodbye: its worker has a while to come back.
    pub fn disconnected(self: &Arc<Self>, worker: Worker) {
        let mut broke = false;
        // Nobody is told yet: the worker may come back.
        self.members.send_if_modified(|members| {
            broke = members.disconnect(worker.rank, worker.connection);
            false
        });
        if !broke {
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
        let identity = self.members.borrow().identity(worker.rank).clone();
        tracing::error!(job = self.config.name, %identity, rank = worker.rank, reason, "a worker is lost");
        let (rank, connection) = (worker.rank.to_string(), worker.connection.to_string());
        let details = [("rank", rank.as_str()), ("connection", &connection)];
        self.audit.note(&Event::noted(Action::Lost).by(&identity).because(reason).with(&details));
    }

    /// A worker goes, or does not. Returns which. Where the run ends by it, all that belonged to the run is void before
    /// anybody can join the next.
    fn depart(&self, how: impl FnOnce(&mut Membership) -> (bool, Run)) -> bool {
        let mut outcome = (false, Run::GoesOn);
        self.members.send_if_modified(|members| {
            outcome = how(members);
            if outcome.1 == Run::Ended {
                self.barrier.send_modify(Barrier::reset);
                self.rendezvous.abandon();
                self.model.all().iter().for_each(|key| key.abandon_round());
            }
            outcome.0
        });
        let (gone, run) = outcome;
        if gone {
            self.departures.send_replace(());
        }
        if run == Run::Ended {
            tracing::info!(
                job = self.config.name,
                "all workers have left: the next run starts with open rounds emptied and barriers at 1"
            );
        }
        gone
    }

    // Gradients and weights.

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

    /// Counts a gradient, if the worker is still connected as it was when it began to send. Whoever is given a complete
    /// round starts its update.
    pub fn count(&self, key: &Key, worker: Worker, round: u64, contribution: Contribution) -> Answered<Pushed> {
        // Held until it is counted: the run cannot end in between.
        let members = self.members.borrow();
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

    /// What a pull of a worker, or of somebody who only reads, finds now; `None` where it has to wait.
    pub fn try_pull(&self, key: &Key, rank: Option<Rank>, version: u64) -> Option<Answered<()>> {
        match key.pull_state(rank, version) {
            PullState::Ready => Some(Ok(())),
            PullState::Failed { round, reason } => Some(Err(self.paused(key, round).unwrap_or_else(|| {
                let message = format!(
                    "round {round} of key `{}` failed and its gradients were discarded: {reason}; \
                     the weights are those of version {}, push the round again",
                    key.name,
                    round - 1
                );
                Refusal::new(ErrorCode::OptimizerFailed, message)
            }))),
            PullState::Waiting { round, missing } => {
                if !missing.is_empty()
                    && let Some(paused) = self.paused(key, round)
                {
                    return Some(Err(paused));
                }
                if let Some(rank) = missing.iter().copied().find(|rank| self.is_refused(key, *rank)) {
                    let message = self.refused_for_failures(key, rank);
                    return Some(Err(Refusal::new(ErrorCode::WorkerLost, message)));
                }
                let gone = self.members.borrow().gone(missing);
                (!gone.is_empty()).then(|| {
                    let message = format!("round {round} of key `{}` cannot end: {gone}", key.name);
                    Err(Refusal::new(ErrorCode::WorkerLost, message))
                })
            }
        }
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
            self.members.borrow().identity(rank),
            key.name,
            self.offenders.failures(key.id, rank)
        )
    }

    /// Why a round cannot end that is not being computed: the optimizer that would update it is paused.
    fn paused(&self, key: &Key, round: u64) -> Option<Refusal> {
        self.deployments.read().of_round(key.placed_with(), round)?.paused()
    }

    /// Waits until the key has reached a version.
    pub async fn pull(&self, key: &Key, rank: Option<Rank>, version: u64) -> Answered<()> {
        let late = || match key.pull_state(rank, version) {
            PullState::Waiting { round, missing } if !missing.is_empty() => {
                let missing = self.members.borrow().describe(missing);
                format!("round {round} of key `{}` did not end: waited for {missing}", key.name)
            }
            _ => self.update_waits(key).unwrap_or_else(|| {
                format!("key `{}` did not reach version {version}: its update is still running", key.name)
            }),
        };
        let answer = self.wait(key.progress(), || self.try_pull(key, rank, version), late).await;
        match (&answer, key.pull_state(rank, version)) {
            // Nobody could push: the workers are not who was waited for.
            (Err(Refusal { code: ErrorCode::TimedOut, .. }), PullState::Waiting { round, .. })
                if self.deployments.read().of_round(key.placed_with(), round).is_none() =>
            {
                Err(no_optimizer_for(&format!("round {round} of key `{}` cannot run", key.name)))
            }
            _ => answer,
        }
    }

    /// What a key's update waits for, where its optimizer combines keys and some have not come to this round.
    fn update_waits(&self, key: &Key) -> Option<String> {
        let missing = self.rendezvous.waits_for(key.id)?;
        Some(format!(
            "round {} of key `{}` did not end: its optimizer combines keys in a round, and waited for {}; workers must push \
             all keys before they pull any",
            key.next_round().0,
            key.name,
            self.describe_keys(&missing)
        ))
    }

    /// Keys that a round waits for, and the workers whose gradients each of them lacks, for a message.
    pub fn describe_keys(&self, keys: &[TensorId]) -> String {
        let describe = |key: &Arc<Key>| match key.pull_state(None, u64::MAX) {
            PullState::Waiting { missing, .. } if !missing.is_empty() => {
                format!("`{}` (not pushed by {})", key.name, self.members.borrow().describe(missing))
            }
            _ => format!("`{}`", key.name),
        };
        let all = self.model.all();
        let mut described: Vec<_> =
            all.iter().filter(|key| keys.contains(&key.id)).take(MAX_NAMED_KEYS).map(describe).collect();
        match keys.len().saturating_sub(MAX_NAMED_KEYS) {
            0 => {}
            more => described.push(format!("and {more} more")),
        }
        described.join(", ")
    }

    /// Waits until all workers are at the barrier of this number.
    pub async fn barrier(&self, worker: Worker, number: u64) -> Answered<()> {
        let changes = self.barrier.subscribe();
        if self.arrive(worker, number)? {
            return Ok(());
        }
        // What is read of the barrier is collected: the membership is locked before the barrier, never after.
        let state = || {
            let barrier = self.barrier.borrow();
            (barrier.passed(), barrier.missing().collect::<Vec<_>>())
        };
        let look = || {
            let (passed, missing) = state();
            if passed >= number {
                return Some(Ok(()));
            }
            let gone = self.members.borrow().gone(missing);
            (!gone.is_empty())
                .then(|| Err(Refusal::new(ErrorCode::WorkerLost, format!("barrier {number} cannot be passed: {gone}"))))
        };
        let late = || {
            let (_, missing) = state();
            let missing = self.members.borrow().describe(missing);
            format!("barrier {number} was not passed: waited for {missing}")
        };
        self.wait(changes, look, late).await
    }

    /// Counts a worker at a barrier, if it is connected. Returns whether the barrier is passed.
    fn arrive(&self, worker: Worker, number: u64) -> Answered<bool> {
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

    /// Waits until the worker of rank 0 has made a key known.
    pub async fn known(&self, name: &str, tensor: &TensorType) -> Answered<Arc<Key>> {
        const FIRST: Rank = 0;
        let arrival = self.model.arrival(name);
        let look = || {
            if let Some(key) = self.model.find(name) {
                return Some(check_type(&key, tensor).map(|()| key));
            }
            let gone = self.members.borrow().gone([FIRST]);
            (!gone.is_empty()).then(|| {
                let message = format!("key `{name}` cannot be made known: {gone}");
                Err(Refusal::new(ErrorCode::WorkerLost, message))
            })
        };
        let late = || {
            let first = self.members.borrow().describe([FIRST]);
            format!("key `{name}` was not made known: waited for the first value from {first}")
        };
        self.wait(arrival.signal(), look, late).await
    }

    /// Looks, now and at every change, until there is something to answer, the time is over or the server stops.
    async fn wait<T, C>(
        &self,
        mut changes: watch::Receiver<C>,
        look: impl Fn() -> Option<Answered<T>>,
        late: impl Fn() -> String,
    ) -> Answered<T> {
        let timeout: Seconds = self.config.job.round_timeout_seconds;
        let mut departures = self.departures.subscribe();
        let mut shutdown = self.shutdown.clone();
        let deadline = tokio::time::sleep(timeout.duration());
        tokio::pin!(deadline);
        let mut sender_gone = false;
        loop {
            changes.mark_unchanged();
            departures.mark_unchanged();
            if let Some(answer) = look() {
                return answer;
            }
            tokio::select! {
                changed = changes.changed(), if !sender_gone => sender_gone = changed.is_err(),
                _ = departures.changed() => {}
                () = &mut deadline => {
                    let message = format!("{} within {} s (job.round_timeout_seconds)", late(), timeout.duration().as_secs_f64());
                    return Err(Refusal::new(ErrorCode::TimedOut, message));
                }
                _ = shutdown.wait_for(|stops| *stops) => {
                    return Err(Refusal::new(ErrorCode::Busy, "the server is being shut down"));
                }
            }
        }
    }
}

pub(crate) fn no_optimizer_for(what_cannot_be: &str) -> Refusal {
    let message = format!("no optimizer is deployed, so {what_cannot_be}: deploy one (`stepbox deploy`)");
    Refusal::new(ErrorCode::NoOptimizer, message)
}

pub(crate) fn not_registered() -> Refusal {
    Refusal::new(ErrorCode::OutOfOrder, "this connection speaks for no worker; register first")
}

fn wrong_round(key: &Key, wrong: &crate::model::WrongRound) -> Refusal {
    Refusal::new(ErrorCode::WrongRound, format!("key `{}`: {wrong}", key.name))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::job::Presence;
    use crate::model::key::tests::zeros;
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
        match job.register(worker).0 {
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
        job.register(before);
        job.register(now);
        assert!(crate::round::push(&job, &key, before, 1, zeros()).is_err());
        assert_eq!(missing(&key), [0, 1]);
        assert!(job.arrive(before, 1).is_err());
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
            assert_eq!(job.arrive(first, 1).ok(), Some(false));
            assert_eq!(job.arrive(second, 1).ok(), Some(true));
            assert!(job.leave(second).is_ok());

            // One worker ends the run while the other waits for nothing but that, and joins the next.
            let barrier = std::thread::scope(|scope| {
                scope.spawn(|| assert!(job.leave(first).is_ok()));
                while job.members.borrow().presence(0) != Presence::Absent {
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
