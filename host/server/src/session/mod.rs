//! One connection, from its handshake to its end.
//!
//! A task reads requests one after the other and answers what can be answered at once. What has to wait for other
//! workers, for a deployment or for a hash waits in a task of its own, of which there is a bounded number. All answers
//! leave by one bounded queue, in whatever order they are ready. A request that is refused costs the peer that request
//! and nobody else anything; only bytes that are no frames end the connection.

mod answers;
mod deployments;
mod frames;
mod requests;
mod tensors;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use stepbox_wire::{
    ErrorCode, PROTOCOL_VERSION, Request, RequestId, Response, UNADDRESSED, decode_request, request_id_of,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::access::Rights;
use crate::audit::{Action, Event};
use crate::identity::Identity;
use crate::job::{Job, Worker};
use crate::membership::{ConnectionId, Presence};
use crate::refusal::{Answered, Refusal};
use answers::{Answer, Content, QUEUED_ANSWERS, send_all};
use frames::{FrameReader, ReadError};

/// How long a connection that the server ends is still read from, so that the peer, in the middle of sending, gets the
/// last answer and not a reset.
const LINGER: Duration = Duration::from_secs(2);

/// How long waiting requests have to be answered when the server stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the tasks of a connection share.
struct Context {
    job: Arc<Job>,
    identity: Identity,
    rights: Rights,
    connection: ConnectionId,
    /// Set while this connection speaks for a worker.
    worker: Mutex<Option<Worker>>,
    answers: mpsc::Sender<Answer>,
    outstanding: Arc<Semaphore>,
    /// Of ids in row pulls that wait.
    row_ids: Arc<Semaphore>,
    /// One evaluation's weights at a time.
    evaluations: Arc<Semaphore>,
}

/// Why a connection ended.
enum End {
    /// Between two frames, by the peer.
    Closed,
    /// Because of what the peer sent, or did not.
    Peer(ReadError),
    /// The worker came by another connection.
    Replaced,
    /// The server stops.
    Shutdown,
    /// The peer takes no answers any more.
    Unanswerable,
}

/// Serves a connection whose TLS handshake is done.
///
/// `greeting` is the time left for the peer to say `Hello`.
pub(crate) async fn serve(
    job: Arc<Job>,
    (reading, writing): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin + Send + 'static),
    identity: Identity,
    connection: ConnectionId,
    greeting: Duration,
    mut shutdown: watch::Receiver<bool>,
) {
    let limits = job.config.limits.clone();
    let (answers, queue) = mpsc::channel(QUEUED_ANSWERS);
    let mut writer = tokio::spawn(send_all(writing, queue, Arc::clone(&job)));
    let mut reader = FrameReader::new(reading, limits.clone());

    let greeted = timeout(greeting, greet(&job, &identity, &answers, &mut reader)).await;
    let rights = match greeted {
        Ok(Some(rights)) => rights,
        Ok(None) => {
            drop(answers);
            return linger(&mut writer, &mut reader).await;
        }
        Err(_) => {
            tracing::warn!(%identity, "the peer did not say hello in time (limits.handshake_seconds)");
            return writer.abort();
        }
    };
    reader.lift_limits();
    tracing::debug!(%identity, connection, "connected");

    let context = Arc::new(Context {
        outstanding: Arc::new(Semaphore::new(limits.outstanding_requests.min(Semaphore::MAX_PERMITS))),
        evaluations: Arc::new(Semaphore::new(1)),
        row_ids: Arc::new(Semaphore::new(limits.row_ids.min(Semaphore::MAX_PERMITS))),
        worker: Mutex::new(None),
        job,
        identity,
        rights,
        connection,
        answers,
    });
    let mut waiting = JoinSet::new();
    let end = tokio::select! {
        end = requests::read_all(&context, &mut reader, &mut waiting) => end,
        () = replaced(&context) => End::Replaced,
        _ = shutdown.wait_for(|stops| *stops) => End::Shutdown,
        _ = &mut writer => End::Unanswerable,
    };
    let (identity, job) = (&context.identity, &context.job);
    let worker = context.worker.lock().take();
    if let Some(worker) = worker {
        job.disconnected(worker);
    }
    let lingers = match &end {
        End::Closed => false,
        End::Unanswerable => {
            tracing::warn!(%identity, "the peer does not take its answers; its connection is closed");
            false
        }
        End::Shutdown => {
            // What waits is woken by the shutdown and answered.
            let _ = timeout(FAREWELL, async { while waiting.join_next().await.is_some() {} }).await;
            true
        }
        End::Replaced => {
            tracing::warn!(%identity, connection, "replaced: the worker has registered by another connection");
            true
        }
        End::Peer(error) => {
            tracing::warn!(%identity, reason = %error, "the connection ends");
            // Where its records are wrong, TLS has an alert for the peer, which goes out as the writer ends.
            let are_records_wrong = matches!(error, ReadError::Io(error) if error.kind() == ErrorKind::InvalidData);
            are_records_wrong || matches!(error, ReadError::Frame(_) | ReadError::Slow { .. })
        }
    };
    tracing::debug!(%identity, connection, "disconnected");
    waiting.shutdown().await;
    drop(context);
    if lingers {
        linger(&mut writer, &mut reader).await;
    } else {
        writer.abort();
    }
}

/// Lets the last answers out, then reads on for a moment.
async fn linger<Stream: AsyncRead + Unpin>(
    writer: &mut tokio::task::JoinHandle<std::io::Result<()>>,
    reader: &mut FrameReader<Stream>,
) {
    let last_answers = async {
        // Reading goes on meanwhile: a peer that sends without reading would otherwise never take the answer.
        tokio::select! {
            _ = &mut *writer => {}
            () = async { reader.drain().await; std::future::pending::<()>().await } => {}
        }
        reader.drain().await;
    };
    if timeout(LINGER, last_answers).await.is_err() {
        writer.abort();
    }
}

/// Has the peer say who it is not: its version. Returns its rights, or `None` where it was turned away.
async fn greet<Stream: AsyncRead + Unpin>(
    job: &Job,
    identity: &Identity,
    answers: &mpsc::Sender<Answer>,
    reader: &mut FrameReader<Stream>,
) -> Option<Rights> {
    let (id, greeted) = match reader.next().await {
        Ok((_, header)) => match decode_request(&header) {
            Ok((id, request)) => (id, check_greeting(job, identity, &request)),
            Err(error) => (request_id_of(&header).unwrap_or(UNADDRESSED), Err(Refusal::from(&error))),
        },
        Err(ReadError::Frame(error)) => (UNADDRESSED, Err(Refusal::from(&error))),
        Err(error) => {
            tracing::warn!(%identity, reason = %error, "the peer did not say hello");
            return None;
        }
    };
    let (response, rights) = match greeted {
        Ok(rights) => (Response::Welcome { protocol: PROTOCOL_VERSION, identity: identity.to_string() }, Some(rights)),
        Err(refusal) => (refused(job, identity, "hello", "", refusal), None),
    };
    let sent = answers.send(Answer { id, content: Content::Message(response) }).await;
    rights.filter(|_| sent.is_ok())
}

fn check_greeting(job: &Job, identity: &Identity, request: &Request) -> Answered<Rights> {
    match request {
        Request::Hello { protocol: PROTOCOL_VERSION } => job.access.of(identity).ok_or_else(|| {
            Refusal::new(
                ErrorCode::Forbidden,
                format!(
                    "`{identity}` has no part in this job; the operator names workers in [job], others in [access]"
                ),
            )
        }),
        Request::Hello { protocol } => Err(Refusal::new(
            ErrorCode::ProtocolVersion,
            format!("you speak protocol {protocol}, this server speaks {PROTOCOL_VERSION}; use matching versions"),
        )),
        _ => Err(Refusal::new(ErrorCode::OutOfOrder, "a connection's first request is hello")),
    }
}

/// Ends when another connection speaks for this connection's worker.
async fn replaced(context: &Context) {
    let mut members = context.job.members.subscribe();
    loop {
        let worker = *context.worker.lock();
        if let Some(Worker { rank, connection }) = worker
            && matches!(members.borrow_and_update().presence(rank), Presence::Connected(other) if other != connection)
        {
            return;
        }
        if members.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Counts and logs a refusal; returns the answer to the peer.
fn refused(job: &Job, identity: &Identity, request: &str, key: &str, mut refusal: Refusal) -> Response {
    refusal.shorten();
    job.statistics.refusals.fetch_add(1, Ordering::Relaxed);
    if !refusal.audited {
        let subject = if key.is_empty() { request } else { key };
        let reason = format!("{request}: {}", refusal.message);
        job.audit.record(&Event::refused(Action::Request, &reason).by(identity).about(subject).code(refusal.code));
    }
    Response::Failed(refusal.into())
}

impl Context {
    /// Answers a request, with the refusal where that is its outcome.
    async fn answer(&self, id: RequestId, request: &str, key: &str, outcome: Answered<Content>) {
        let content = outcome
            .unwrap_or_else(|refusal| Content::Message(refused(&self.job, &self.identity, request, key, refusal)));
        // Where the peer takes no answers any more, the connection is about to end.
        let _ = self.answers.send(Answer { id, content }).await;
    }
}
