//! One connection, from its handshake to its end.
//!
//! A task reads requests one after the other and answers what can be answered at once. What has to wait for other
//! workers, for a deployment or for a hash waits in a task of its own, of which there is a bounded number. All answers
//! leave by one bounded queue, in whatever order they are ready. A request that is refused costs the peer that request
//! and nobody else anything; only bytes that are no frames end the connection.

mod ahead;
mod answers;
mod context;
mod departure;
mod deployments;
mod end;
mod frames;
mod greeting;
mod refusals;
mod requests;
mod tensors;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stepbox_wire::{ErrorCode, PROTOCOL_VERSION, Response, UNADDRESSED, encode_response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::audit::{Action, Event};
use crate::job::{Jobs, Presence, Worker};
use crate::limiting::Account;
use crate::names::{ConnectionId, Identity, Refusal};
use crate::peer::CertificateWatch;
use answers::{Answer, Content, QUEUED_ANSWERS, send_all, send_last};
use context::{Context, FAREWELL};
use departure::Speaker;
use end::End;
use frames::{FrameReader, ReadError};
use greeting::{Greeted, TurnedAway, Unwelcome, greet, invalid};

/// How long a connection that the server ends is still read from, so that the peer, in the middle of sending, gets the
/// last answer and not a reset.
const LINGER: Duration = Duration::from_secs(2);

/// Whose connection it is.
pub(crate) struct Peer {
    pub identity: Identity,
    pub certificate: CertificateWatch,
    pub connection: ConnectionId,
    /// What this identity does by all its connections.
    pub account: Arc<Account>,
}

/// Serves a connection whose TLS handshake is done.
///
/// `greeting` is the time left for the peer to say `Hello`. An error where it was not let in, and would not have been had
/// there been room.
pub(crate) async fn serve(
    jobs: Arc<Jobs>,
    (reading, writing): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin + Send + 'static),
    Peer { identity, certificate, connection, account }: Peer,
    greeting: Duration,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Unwelcome> {
    let mut reader = FrameReader::new(reading, jobs.limits.clone());
    let greeted = timeout(greeting, greet(&jobs, &identity, &certificate, &mut reader)).await;
    let Ok(greeted) = greeted else {
        tracing::warn!(%identity, "the peer did not say hello in time (limits.handshake_seconds)");
        return Err(Unwelcome::Silent);
    };
    let Greeted { id, job, place: _place } = match greeted {
        Ok(greeted) => greeted,
        Err(TurnedAway(None)) => return Err(Unwelcome::Silent),
        Err(TurnedAway(Some((id, failure)))) => {
            let code = failure.code;
            let mut writer = tokio::spawn(send_last(writing, id, Response::Failed(failure), jobs.limits.clone()));
            linger(&mut writer, &mut reader).await;
            // Where the job is full it would have been welcome.
            return if code == ErrorCode::Busy { Ok(()) } else { Err(Unwelcome::Refused(code)) };
        }
    };
    let limits = job.config.limits.clone();
    let (answers, queue) = mpsc::channel(QUEUED_ANSWERS);
    let mut writer = tokio::spawn(send_all(writing, queue, (Arc::clone(&job), identity.clone()), Arc::clone(&account)));
    let welcome = Response::Welcome { protocol: PROTOCOL_VERSION, identity: identity.to_string() };
    // The queue is empty; a writer that has ended is noticed below.
    let _ = answers.send(Answer { id, content: Content::Message(welcome) }).await;
    reader.lift_limits();
    job.audit.record(&Event::allowed(Action::Connect).by(&identity).about(&job.config.name));

    let most_outstanding = limits.outstanding_requests.min(Semaphore::MAX_PERMITS);
    let context = Arc::new(Context {
        outstanding: Arc::new(Semaphore::new(most_outstanding)),
        most_outstanding,
        ahead: Arc::default(),
        worker: Arc::default(),
        read: Mutex::default(),
        job,
        identity,
        connection,
        answers,
        account,
    });
    let speaker = Speaker::new(&context.job, &context.worker);
    let mut waiting = JoinSet::new();
    // In this order: what ends a connection comes before its next request.
    let end = tokio::select! {
        biased;
        reason = certificate.lost() => End::Invalid(reason),
        refusal = context.job.access.lost(&context.identity) => End::Dismissed(refusal),
        () = replaced(&context) => End::Replaced,
        _ = shutdown.wait_for(|stops| *stops) => End::Shutdown,
        _ = &mut writer => End::Unanswerable,
        end = requests::read_all(&context, &mut reader, &mut waiting) => end,
    };
    let (identity, job) = (&context.identity, &context.job);
    match end {
        End::Dismissed(_) => speaker.dismiss(),
        _ => drop(speaker),
    }
    let lingers = match end {
        // What waited was dropped, but what is answered is sent: it may have closed its own direction only.
        End::Closed => true,
        End::Unanswerable => {
            tracing::warn!(%identity, "the peer does not take its answers; its connection is closed");
            false
        }
        End::Shutdown => {
            // What waits is woken by the shutdown and answered.
            let _ = timeout(FAREWELL, async { while waiting.join_next().await.is_some() {} }).await;
            true
        }
        End::Invalid(reason) => {
            waiting.shutdown().await;
            let refusal = invalid(&reason);
            job.audit.record(&Event::refused(Action::Certificate, &reason).by(identity).code(refusal.code));
            context.say_farewell(refusal).await;
            true
        }
        End::Dismissed(refusal) => {
            waiting.shutdown().await;
            let event = Event::refused(Action::Rights, &refusal.message).by(identity).about(&job.config.name);
            job.audit.record(&event.code(refusal.code));
            context.say_farewell(Refusal { audited: true, ..refusal }).await;
            true
        }
        End::Replaced => {
            tracing::warn!(%identity, connection, "replaced: the worker has registered by another connection");
            waiting.shutdown().await;
            // No request is refused, and the audit log has it from the registration: nothing is counted.
            let failure = Response::Failed(replaced_by_another(identity).into());
            let farewell = Answer { id: UNADDRESSED, content: Content::Message(failure) };
            let _ = timeout(FAREWELL, context.answers.send(farewell)).await;
            true
        }
        End::Peer(error) => {
            tracing::warn!(%identity, reason = %error, "the connection ends");
            // Where its records are wrong, TLS has an alert for the peer, which goes out as the writer ends.
            let are_records_wrong = matches!(&error, ReadError::Io(error) if error.kind() == ErrorKind::InvalidData);
            are_records_wrong || matches!(error, ReadError::Frame(_) | ReadError::Slow { .. } | ReadError::Idle { .. })
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
    Ok(())
}

/// Tells a peer that it cannot be served now, whatever it says, and ends its connection.
pub(crate) async fn turn_away(
    (mut reading, mut writing): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    refusal: Refusal,
) {
    let answer = encode_response(UNADDRESSED, &Response::Failed(refusal.into()), 0);
    let told = async {
        writing.write_all(&answer).await?;
        writing.shutdown().await?;
        // What it is about to send is taken, or it would find a reset instead of the answer.
        tokio::io::copy(&mut reading, &mut tokio::io::sink()).await
    };
    // It has been turned away, whether or not it listens.
    let _ = timeout(LINGER, told).await;
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

fn replaced_by_another(identity: &Identity) -> Refusal {
    let message = format!(
        "another connection has registered as `{identity}`, and a worker has one. Where two processes use the same \
         certificate, give each a certificate and an entry in the job's workers of its own, or they replace each other \
         again and again; where it is this process that has come back, go on with its newer connection"
    );
    Refusal::new(ErrorCode::Replaced, message)
}

/// Ends when another connection speaks for this connection's worker.
async fn replaced(context: &Context) {
    let mut members = context.job.workers.members.subscribe();
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
