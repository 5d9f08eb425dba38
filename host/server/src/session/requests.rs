//! What becomes of each request.

use std::sync::Arc;

use stepbox_wire::{
    ErrorCode, FramePrefix, Request, RequestId, Response, Schedule, UNADDRESSED, decode_request, request_id_of,
};
use tokio::io::AsyncRead;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::answers::Content;
use super::context::Context;
use super::end::End;
use super::frames::{FrameReader, ReadError};
use crate::audit::{Action, Event};
use crate::config::Right;
use crate::deploy::learning_rate;
use crate::job::{Worker, not_registered};
use crate::limiting::{Direction, Held};
use crate::names::{Answered, Rank, Refusal};
use crate::report::{Report, weights_digest};

/// Why a request was not carried out.
pub(super) enum Stopped {
    /// It is refused; the connection goes on.
    Refused(Refusal),
    /// Its body did not come; the connection is over.
    Unreadable(ReadError),
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ReadError> for Stopped {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

/// A request's place among those that wait, of its connection and of its identity; given back when it is dropped.
pub(super) struct Outstanding {
    _connection: OwnedSemaphorePermit,
    _identity: OwnedSemaphorePermit,
}

/// A request for which an answer is due.
pub(super) struct Asked<'a, Stream> {
    pub(super) context: &'a Arc<Context>,
    pub(super) reader: &'a mut FrameReader<Stream>,
    /// Where what has to wait waits.
    waiting: &'a mut JoinSet<()>,
    id: RequestId,
    name: &'static str,
    pub(super) body_bytes: u64,
}

/// Reads and handles requests until the connection ends.
pub(super) async fn read_all<Stream: AsyncRead + Unpin>(
    context: &Arc<Context>,
    reader: &mut FrameReader<Stream>,
    waiting: &mut JoinSet<()>,
) -> End {
    loop {
        // Those that are done are forgotten, so that the set holds what waits and no more.
        while waiting.try_join_next().is_some() {}
        context.account.discard(reader.unread()).await;
        context.account.request().await;
        let (id, error) = match reader.next(|| context.is_idle()).await {
            Ok((prefix, header)) => match handle(context, reader, waiting, prefix, &header).await {
                Ok(()) => continue,
                Err(ended) => ended,
            },
            // There is no telling which request it was meant to be.
            Err(error) => (UNADDRESSED, error),
        };
        let refusal = match &error {
            ReadError::Closed => return End::Closed,
            ReadError::Frame(error) => Some(Refusal::from(error)),
            ReadError::Slow { .. } | ReadError::Idle { .. } => {
                Some(Refusal::new(ErrorCode::TimedOut, error.to_string()))
            }
            ReadError::Truncated | ReadError::Io(_) => None,
        };
        if let Some(refusal) = refusal {
            context.answer(id, "frame", "", Err(refusal)).await;
        }
        return End::Peer(error);
    }
}

/// Handles one request. An error ends the connection, and is the answer to the request of this id where it can be told.
async fn handle<Stream: AsyncRead + Unpin>(
    context: &Arc<Context>,
    reader: &mut FrameReader<Stream>,
    waiting: &mut JoinSet<()>,
    prefix: FramePrefix,
    header: &[u8],
) -> Result<(), (RequestId, ReadError)> {
    let (id, request) = match decode_request(header) {
        Ok(decoded) => decoded,
        Err(error) => {
            let id = request_id_of(header).unwrap_or(UNADDRESSED);
            if error.code().closes_connection() {
                return Err((id, error.into()));
            }
            context.answer(id, "unknown", "", Err(Refusal::from(&error))).await;
            return Ok(());
        }
    };
    context.account.body(prefix.body_bytes).await;
    let (name, key) = describe(&request);
    let asked = Asked { context, reader, waiting, id, name, body_bytes: prefix.body_bytes };
    match asked.handle(request).await {
        Ok(Some(response)) => context.answer(id, name, &key, Ok(response)).await,
        // It will be answered later.
        Ok(None) => {}
        Err(Stopped::Refused(refusal)) => context.answer(id, name, &key, Err(refusal)).await,
        Err(Stopped::Unreadable(error)) => return Err((id, error)),
    }
    Ok(())
}

/// A request's name and key, for the log.
fn describe(request: &Request) -> (&'static str, String) {
    match request {
        Request::Hello { .. } => ("hello", String::new()),
        Request::Register => ("register", String::new()),
        Request::Init { key, .. } => ("init", key.clone()),
        Request::Push { key, .. } => ("push", key.clone()),
        Request::Pull { key, .. } => ("pull", key.clone()),
        Request::Barrier { .. } => ("barrier", String::new()),
        Request::Leave => ("leave", String::new()),
        Request::Deploy(_) => ("deploy", String::new()),
        Request::Status { .. } => ("status", String::new()),
        Request::SetSchedule { .. } => ("set schedule", String::new()),
        Request::PushRows { key, .. } => ("push rows", key.clone()),
        Request::PullRows { key, .. } => ("pull rows", key.clone()),
        Request::Rollback { .. } => ("rollback", String::new()),
        Request::Submit => ("submit", String::new()),
        Request::Activate { digest, .. } => ("activate", digest.clone()),
        Request::Submissions { .. } => ("submissions", String::new()),
        Request::Withdraw { digest } => ("withdraw", digest.clone()),
        Request::Keys { .. } | Request::Workers { .. } => ("status", String::new()),
    }
}

impl<Stream: AsyncRead + Unpin> Asked<'_, Stream> {
    /// `None` where the answer follows later.
    async fn handle(self, request: Request) -> Result<Option<Content>, Stopped> {
        request.check_body(self.body_bytes).map_err(|error| Refusal::from(&error))?;
        match request {
            Request::Hello { .. } => Err(Refusal::new(ErrorCode::OutOfOrder, "you have said hello before").into()),
            Request::Register => self.register().await,
            Request::Init { key, tensor, tags } => self.init(key, tensor, tags).await,
            Request::Push { key, round, tensor, loss } => self.push(&key, round, &tensor, loss).await,
            Request::Pull { key, version, evaluation } => self.pull(&key, version, evaluation),
            Request::PushRows { key, round, values, loss } => self.push_rows(&key, round, &values, loss).await,
            Request::PullRows { key, version, rows } => self.pull_rows(&key, version, rows).await,
            Request::Barrier { number } => self.barrier(number),
            Request::Leave => self.leave().await,
            Request::Deploy(options) => self.deploy(options).await,
            Request::Rollback { to } => self.rollback(to),
            Request::Submit => self.submit().await,
            Request::Activate { digest, options } => self.activate(digest, options),
            Request::Submissions { after } => self.report(Report::Submissions { after }).await,
            Request::Withdraw { digest } => self.withdraw(digest),
            Request::Status { weights_digest: false } => self.report(Report::Status { weights_digest: None }).await,
            Request::Status { weights_digest: true } => self.status_with_digest().await,
            Request::Keys { after } => self.report(Report::Keys { after }).await,
            Request::Workers { after } => self.report(Report::Workers { after }).await,
            Request::SetSchedule { learning_rate, schedule } => self.set_schedule(learning_rate, schedule),
        }
    }

    async fn register(self) -> Result<Option<Content>, Stopped> {
        let Context { job, identity, connection, worker: speaks_for, account, .. } = &**self.context;
        let worker = Worker { rank: self.rank()?, connection: *connection };
        if let Some(registered) = job.workers.is_registered(worker) {
            return done(registered);
        }
        account.registration().await;
        // It may have had to wait.
        let worker = Worker { rank: self.rank()?, ..worker };
        // Before the membership changes, so that this connection cannot miss being replaced.
        *speaks_for.lock() = Some(worker);
        let (response, replaced) = job.workers.register(worker);
        let rank = worker.rank;
        tracing::info!(%identity, job = job.config.name, rank, connection, replaces = ?replaced, "registered");
        let (rank, connection) = (rank.to_string(), connection.to_string());
        let details = [("rank", rank.as_str()), ("connection", &connection)];
        job.audit.note(&Event::allowed(Action::Register).by(identity).with(&details));
        if let Some(replaced) = replaced.map(|replaced| replaced.to_string()) {
            let details = [("rank", rank.as_str()), ("connection", &replaced), ("by", &connection)];
            job.audit.note(&Event::noted(Action::Replaced).by(identity).with(&details));
        }
        done(response)
    }

    /// The rank of the worker that this identity is.
    fn rank(&self) -> Answered<Rank> {
        let Context { job, identity, .. } = &**self.context;
        job.access.still_of(identity)?.worker.ok_or_else(|| {
            let section = &job.config.section;
            let message = format!("`{identity}` is no worker of this job; the operator names workers in [{section}]");
            Refusal::new(ErrorCode::Forbidden, message)
        })
    }

    fn barrier(self, number: u64) -> Result<Option<Content>, Stopped> {
        let worker = self.worker()?;
        let job = Arc::clone(&self.context.job);
        self.later(String::new(), async move {
            job.barrier(worker, number).await?;
            Ok(Content::Message(Response::BarrierPassed))
        })
    }

    async fn leave(self) -> Result<Option<Content>, Stopped> {
        self.worker()?;
        self.context.account.registration().await;
        // It may have had to wait.
        let worker = self.worker()?;
        self.context.job.leave(worker)?;
        *self.context.worker.lock() = None;
        let Context { job, identity, .. } = &**self.context;
        tracing::info!(%identity, rank = worker.rank, "left");
        job.audit.note(&Event::allowed(Action::Leave).by(identity).with(&[("rank", &worker.rank.to_string())]));
        done(Response::Left)
    }

    /// Answers with a report, which is made when the answer is sent.
    async fn report(self, report: Report) -> Result<Option<Content>, Stopped> {
        let Context { job, identity, account, .. } = &**self.context;
        report.check_right(job, identity)?;
        if report.is_first() {
            job.audit.note(&Event::allowed(Action::of_request(report.name())).by(identity));
        }
        account.report().await;
        Ok(Some(Content::Report(report)))
    }

    async fn status_with_digest(self) -> Result<Option<Content>, Stopped> {
        let Context { job, identity, account, .. } = &**self.context;
        job.access.require(identity, Right::Status)?;
        job.audit.note(&Event::allowed(Action::Status).by(identity));
        account.report().await;
        let context = Arc::clone(self.context);
        self.later(String::new(), async move {
            let _turn = context.account.digest().await;
            let weights_digest = Some(weights_digest(&context.job).await?);
            Ok(Content::Report(Report::Status { weights_digest }))
        })
    }

    fn set_schedule(self, learning_rate: Option<f64>, schedule: Schedule) -> Result<Option<Content>, Stopped> {
        let Context { job, identity, .. } = &**self.context;
        job.access.require(identity, Right::Schedule)?;
        self.context.account.change()?;
        let (job, identity) = (Arc::clone(job), identity.clone());
        self.later(String::new(), async move {
            let asked = format!("{schedule:?}");
            job.audit.confirm(&Event::attempted(Action::Schedule).by(&identity).about(&asked)).await?;
            let set = learning_rate::set(&job, &identity, learning_rate, schedule).await?;
            let (peak, from_round) = (set.learning_rate.to_string(), set.from_round.to_string());
            let details = [("learning_rate", peak.as_str()), ("from_round", &from_round)];
            job.audit.note(&Event::allowed(Action::Schedule).by(&identity).about(&asked).with(&details));
            tracing::info!(%identity, peak = set.learning_rate, form = ?set.schedule, from_round = set.from_round, "a schedule is set");
            Ok(Content::Message(Response::ScheduleSet(set)))
        })
    }

    /// The worker this connection speaks for: not where it was replaced and has yet to notice, nor where the operator
    /// has taken its part away.
    pub(super) fn worker(&self) -> Answered<Worker> {
        let Context { job, identity, .. } = &**self.context;
        job.access.still_of(identity)?;
        let worker = *self.context.worker.lock();
        let speaks =
            |worker: &Worker| self.context.job.workers.members.borrow().is_connected(worker.rank, worker.connection);
        worker.filter(speaks).ok_or_else(not_registered)
    }

    /// Room for the body, to be held until it is there.
    pub(super) async fn room(&self) -> Answered<Held> {
        self.context.account.room(Direction::Receiving, self.body_bytes, &self.context.job.rooms).await
    }

    /// On whose behalf weights of a key are read: a worker's, which has registered, or somebody's who only reads.
    pub(super) fn reader(&self, key: &str) -> Answered<Option<Rank>> {
        let Context { job, identity, .. } = &**self.context;
        let is_worker = job.access.still_of(identity)?.worker.is_some();
        let rank = if is_worker { Some(self.worker()?.rank) } else { None };
        job.access.require_pull(identity, key)?;
        Ok(rank)
    }

    /// A place among the requests that wait.
    pub(super) fn permit(&self) -> Answered<Outstanding> {
        let limits = &self.context.job.config.limits;
        let connection = Arc::clone(&self.context.outstanding).try_acquire_owned().map_err(|_| {
            let limit = limits.outstanding_requests;
            let message = format!("{limit} requests of this connection wait already (limits.outstanding_requests)");
            Refusal::new(ErrorCode::Busy, message)
        })?;
        let identity = self.context.account.outstanding().ok_or_else(|| {
            let (identity, limit) = (&self.context.identity, limits.outstanding_requests_per_identity);
            let limit = format!("{limit} requests of `{identity}` wait already");
            Refusal::new(ErrorCode::Busy, format!("{limit} (limits.outstanding_requests_per_identity)"))
        })?;
        Ok(Outstanding { _connection: connection, _identity: identity })
    }

    /// Answers when `outcome` is there.
    pub(super) fn later(
        self,
        key: String,
        outcome: impl Future<Output = Answered<Content>> + Send + 'static,
    ) -> Result<Option<Content>, Stopped> {
        let permit = self.permit()?;
        self.later_with(permit, key, outcome)
    }

    pub(super) fn later_with(
        self,
        permit: Outstanding,
        key: String,
        outcome: impl Future<Output = Answered<Content>> + Send + 'static,
    ) -> Result<Option<Content>, Stopped> {
        let (context, id, name) = (Arc::clone(self.context), self.id, self.name);
        self.waiting.spawn(async move {
            let outcome = outcome.await;
            context.answer(id, name, &key, outcome).await;
            drop(permit);
        });
        Ok(None)
    }
}

pub(super) fn done(response: Response) -> Result<Option<Content>, Stopped> {
    Ok(Some(Content::Message(response)))
}
