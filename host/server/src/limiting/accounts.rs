//! What an identity does, over all its connections and across their ends: who comes again has not become somebody else.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stepbox_wire::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::rate::Rate;
use super::remembered::Remembered;
use super::room::{Direction, Held, Room, Rooms};
use crate::config::Limits;
use crate::logging::LogThrottle;
use crate::names::{Answered, Identity, Refusal};

/// Bytes of bodies in a second that an identity may have the server receive for nothing: those of refused requests, which
/// are decrypted and dropped so that the stream stays in step. A third of a core; a mistake in all tensors of a model of
/// some gigabytes costs its worker seconds.
const DISCARDED_BYTES_PER_SECOND: u64 = 512 << 20;

/// All identities that are connected, and some that were.
#[derive(Debug)]
pub(crate) struct Accounts {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// With their number of connections, which is above 0.
    here: HashMap<Identity, (usize, Arc<Account>)>,
    away: Remembered<Identity, Arc<Account>>,
}

/// What one identity does.
#[derive(Debug)]
pub(crate) struct Account {
    identity: Identity,
    requests: Rate,
    /// Statuses and pages of lists, which cost the server more than other requests.
    reports: Rate,
    refusals: Rate,
    /// Refusals that have the code of the one before.
    repetitions: Rate,
    last_refusal: Mutex<Option<ErrorCode>>,
    changes: Rate,
    /// Its worker's coming and going.
    registrations: Rate,
    bytes: Rate,
    discarded: Rate,
    outstanding: Arc<Semaphore>,
    row_ids: Arc<Semaphore>,
    rooms: Rooms,
    patience: Duration,
    slowed: LogThrottle,
    /// One evaluation at a time: each keeps its key's rounds waiting.
    evaluating: Semaphore,
    /// One digest of all weights at a time, so that the others who wait for theirs have their turns between.
    digesting: Semaphore,
}

/// One of an identity's connections.
#[derive(Debug)]
pub(crate) struct CountedConnection {
    accounts: Arc<Accounts>,
    account: Arc<Account>,
}

impl Accounts {
    pub(crate) fn new(limits: &Limits) -> Self {
        let state = State { here: HashMap::new(), away: Remembered::new() };
        Self { limits: limits.clone(), state: Mutex::new(state) }
    }

    /// Another connection of an identity. Refused where it has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, identity: &Identity, now: Instant) -> Answered<CountedConnection> {
        let limit = self.limits.connections_per_identity;
        let mut state = self.state.lock();
        let State { here, away } = &mut *state;
        let mut known = || away.take(identity, now).unwrap_or_else(|| Arc::new(self.account(identity, now)));
        let (count, account) = here.entry(identity.clone()).or_insert_with(|| (0, known()));
        if *count >= limit {
            let message = format!(
                "`{identity}` has {limit} connections already (limits.connections_per_identity); close one first"
            );
            return Err(Refusal::new(ErrorCode::RateLimited, message));
        }
        *count += 1;
        Ok(CountedConnection { accounts: Arc::clone(self), account: Arc::clone(account) })
    }

    fn account(&self, identity: &Identity, now: Instant) -> Account {
        let Limits {
            requests_per_second,
            reports_per_second,
            refusals_per_minute,
            keys,
            changes_per_minute,
            registrations_per_minute,
            outstanding_requests_per_identity,
            row_ids,
            identity_bytes_per_second,
            receiving_bytes_per_identity,
            sending_bytes_per_identity,
            frame_seconds,
            ..
        } = self.limits;
        Account {
            identity: identity.clone(),
            requests: Rate::a_second(requests_per_second.into(), now),
            reports: Rate::a_second(reports_per_second.into(), now),
            refusals: Rate::a_minute(refusals_per_minute.into(), now),
            repetitions: Rate::a_minute(keys as u64, now),
            last_refusal: Mutex::default(),
            changes: Rate::a_minute(changes_per_minute.into(), now),
            registrations: Rate::a_minute(registrations_per_minute.into(), now),
            outstanding: Arc::new(Semaphore::new(outstanding_requests_per_identity.min(Semaphore::MAX_PERMITS))),
            row_ids: Arc::new(Semaphore::new(row_ids.min(Semaphore::MAX_PERMITS))),
            bytes: Rate::a_second(identity_bytes_per_second, now),
            discarded: Rate::a_second(DISCARDED_BYTES_PER_SECOND, now),
            rooms: Rooms::new(receiving_bytes_per_identity, sending_bytes_per_identity),
            patience: frame_seconds.duration(),
            slowed: LogThrottle::default(),
            evaluating: Semaphore::new(1),
            digesting: Semaphore::new(1),
        }
    }
}

impl Account {
    /// Waits until its next request may be read.
    pub(crate) async fn request(&self) {
        if self.requests.wait_for(1).await {
            self.slowed("limits.requests_per_second");
        }
        if self.refusals.wait_for(0).await {
            self.slowed("limits.refusals_per_minute");
        }
    }

    /// Waits until it may be told of the server again.
    pub(crate) async fn report(&self) {
        if self.reports.wait_for(1).await {
            self.slowed("limits.reports_per_second");
        }
    }

    /// Waits until its worker may come or go again: others in the job notice each time.
    pub(crate) async fn registration(&self) {
        if self.registrations.wait_for(1).await {
            self.slowed("limits.registrations_per_minute");
        }
    }

    /// A place among its requests that wait for an answer, over all its connections; `None` where all are taken.
    pub(crate) fn outstanding(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.outstanding).try_acquire_owned().ok()
    }

    /// Room for so many row ids of its that the server holds; `None` where there is none.
    pub(crate) fn row_ids(&self, count: u64) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.row_ids).try_acquire_many_owned(u32::try_from(count).ok()?).ok()
    }

    /// Waits until a body may come or go.
    pub(crate) async fn body(&self, bytes: u64) {
        if bytes > 0 && self.bytes.wait_for(bytes).await {
            self.slowed("limits.identity_bytes_per_second");
        }
    }

    /// Waits until the rest of a body may come that nobody reads.
    pub(crate) async fn discard(&self, bytes: u64) {
        if bytes > 0 && self.discarded.wait_for(bytes).await {
            self.slowed("bodies of refused requests");
        }
    }

    /// Waits for room for a body, of its own and of the job's.
    pub(crate) async fn room(&self, direction: Direction, bytes: u64, job: &Rooms) -> Answered<Held> {
        let (own, all) = (self.rooms.of(direction), job.of(direction));
        Room::hold(own, all, bytes, self.patience).await.ok_or_else(|| {
            let limit = match direction {
                Direction::Receiving => "receiving_bytes",
                Direction::Sending => "sending_bytes",
            };
            let seconds = self.patience.as_secs_f64();
            let message = format!(
                "no room for a body of {bytes} bytes within {seconds} s (limits.{limit}_per_identity, limits.{limit}, of \
                 which each job has its part); come again when others are done"
            );
            Refusal::new(ErrorCode::RateLimited, message)
        })
    }

    /// Takes one of the changes that it may ask for, whatever becomes of it: each is lines of the audit log, on disk at
    /// once and never gathered.
    pub(crate) fn change(&self) -> Answered<()> {
        self.changes.take(Instant::now()).map_err(|wait| {
            let message = format!(
                "`{}` asks for more changes than limits.changes_per_minute; try again in {:.0} s",
                self.identity,
                wait.as_secs_f64().ceil()
            );
            Refusal::new(ErrorCode::RateLimited, message)
        })
    }

    /// Its turn to have weights evaluated. `None` never comes.
    pub(crate) async fn evaluation(&self) -> Option<SemaphorePermit<'_>> {
        self.evaluating.acquire().await.ok()
    }

    /// Its turn to have all weights hashed. `None` never comes.
    pub(crate) async fn digest(&self) -> Option<SemaphorePermit<'_>> {
        self.digesting.acquire().await.ok()
    }

    /// A request of its was refused. One mistake can have a refusal for each key of a model, as when a loss diverges:
    /// those that have the code of the one before are counted apart, as many in a minute as there may be keys.
    pub(crate) fn refused(&self, code: ErrorCode) {
        if !is_its_own_doing(code) {
            return;
        }
        let now = Instant::now();
        let follows = self.last_refusal.lock().replace(code) == Some(code);
        if !(follows && self.repetitions.take(now).is_ok()) {
            self.refusals.charge(1, now);
        }
    }

    fn slowed(&self, limit: &str) {
        if let Some(before) = self.slowed.allow(Instant::now()) {
            tracing::warn!(identity = %self.identity, limit, before, "slowed: it asks more often than it may");
        }
    }
}

/// Whether a refusal tells of what the peer did. The others tell of workers that are gone and optimizers that fail, once
/// for each key.
fn is_its_own_doing(code: ErrorCode) -> bool {
    use ErrorCode::{NoOptimizer, OptimizerFailed, Paused, TimedOut, WorkerLost};
    !matches!(code, WorkerLost | TimedOut | NoOptimizer | OptimizerFailed | Paused)
}

impl CountedConnection {
    /// Whose it is.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Deref for CountedConnection {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.account
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut state = self.accounts.state.lock();
        let State { here, away } = &mut *state;
        let identity = &self.account.identity;
        if let Some((count, _)) = here.get_mut(identity) {
            *count -= 1;
            if *count == 0
                && let Some((identity, (_, account))) = here.remove_entry(identity)
            {
                away.keep(identity, account, Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(limits: Limits) -> Arc<Accounts> {
        Arc::new(Accounts::new(&limits))
    }

    fn identity(name: &str) -> Identity {
        Identity::new(name).unwrap()
    }

    #[test]
    fn an_identity_has_so_many_connections_and_no_more() {
        let now = Instant::now();
        let accounts = accounts(Limits { connections_per_identity: 2, ..Limits::default() });
        let (one, other) = (identity("one"), identity("other"));
        let first = accounts.enter(&one, now).unwrap();
        let _second = accounts.enter(&one, now).unwrap();
        let refusal = accounts.enter(&one, now).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert!(refusal.message.contains("limits.connections_per_identity"), "{}", refusal.message);
        assert!(accounts.enter(&other, now).is_ok());
        drop(first);
        assert!(accounts.enter(&one, now).is_ok());
    }

    #[test]
    fn whoever_comes_again_is_still_the_same_and_in_the_end_forgotten() {
        let now = Instant::now();
        let accounts = accounts(Limits { requests_per_second: 1, ..Limits::default() });
        let name = identity("one");
        let place = accounts.enter(&name, now).unwrap();
        place.requests.charge(1000, Instant::now());
        drop(place);
        assert_eq!(accounts.state.lock().here.len(), 0);
        assert!(accounts.enter(&name, now).unwrap().requests.take(Instant::now()).is_err(), "its rate is what it was");
        accounts.state.lock().away.forget(Instant::now() + Duration::from_secs(1000));
        assert_eq!(accounts.state.lock().away.len(), 0);
    }

    #[test]
    fn a_mistake_in_every_key_counts_once_and_no_flood_does() {
        let accounts = accounts(Limits { refusals_per_minute: 10, keys: 1500, ..Limits::default() });
        let place = accounts.enter(&identity("one"), Instant::now()).unwrap();
        let is_slowed = || !place.refusals.left(Instant::now()).is_zero();
        (0..1500).for_each(|_| place.refused(ErrorCode::NotFinite));
        assert!(!is_slowed(), "a step of 1500 tensors that diverges");
        // As many again within the same minute are no accident.
        (0..1500).for_each(|_| place.refused(ErrorCode::NotFinite));
        assert!(is_slowed());

        let other = accounts.enter(&identity("other"), Instant::now()).unwrap();
        (0..10).for_each(|_| {
            [ErrorCode::WrongShape, ErrorCode::WrongLength].into_iter().for_each(|code| other.refused(code))
        });
        assert!(!other.refusals.left(Instant::now()).is_zero(), "different mistakes count each");
    }

    #[tokio::test]
    async fn a_body_without_room_is_refused_by_name() {
        let seconds = crate::config::Seconds::from_constant(0.001);
        let limits = Limits { receiving_bytes_per_identity: 8192, frame_seconds: seconds, ..Limits::default() };
        let accounts = accounts(limits);
        let (place, job) = (accounts.enter(&identity("one"), Instant::now()).unwrap(), Rooms::new(1 << 20, 1 << 20));
        let held = place.room(Direction::Receiving, 8192, &job).await.unwrap();
        let refusal = place.room(Direction::Receiving, 8192, &job).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert!(refusal.message.contains("limits.receiving_bytes_per_identity"), "{}", refusal.message);
        assert!(place.room(Direction::Sending, 8192, &job).await.is_ok(), "the other way has room of its own");
        drop(held);
        assert!(place.room(Direction::Receiving, 8192, &job).await.is_ok());
    }

    #[tokio::test]
    async fn a_job_whose_room_is_taken_takes_none_of_another() {
        let seconds = crate::config::Seconds::from_constant(0.001);
        let accounts = accounts(Limits { frame_seconds: seconds, ..Limits::default() });
        let (job, other) = (Rooms::new(16 << 10, 16 << 10), Rooms::new(16 << 10, 16 << 10));
        let places = ["one", "other"].map(|name| accounts.enter(&identity(name), Instant::now()).unwrap());
        for direction in [Direction::Receiving, Direction::Sending] {
            let _held = places[0].room(direction, 16 << 10, &job).await.unwrap();
            let refusal = places[1].room(direction, 8192, &job).await.unwrap_err();
            assert_eq!(refusal.code, ErrorCode::RateLimited);
            assert!(places[1].room(direction, 16 << 10, &other).await.is_ok());
        }
    }

    #[test]
    fn changes_have_a_rate_and_a_refusal_that_names_it() {
        let accounts = accounts(Limits { changes_per_minute: 3, ..Limits::default() });
        let place = accounts.enter(&identity("one"), Instant::now()).unwrap();
        for _ in 0..3 {
            place.change().unwrap();
        }
        let refusal = place.change().unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert!(refusal.message.contains("limits.changes_per_minute"), "{}", refusal.message);
        assert!(accounts.enter(&identity("other"), Instant::now()).unwrap().change().is_ok());
    }
}
