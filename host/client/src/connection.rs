//! One connection, shared by any number of requests at a time.
//!
//! A writer task takes frames from a bounded channel and a reader task hands each answer to the request whose id it
//! carries. When the connection ends, every request that waits learns why, and so does every later one.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustls::AlertDescription;
use stepbox_tls::tls_error;
use stepbox_wire::{
    Failure, FrameLimits, FramePrefix, PREFIX_BYTES, Request, RequestId, Response, UNADDRESSED, decode_response,
    encode_request,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

use crate::error::ClientError;

/// Frames that wait for the writer. Their bodies are shared with the caller, so this bounds how far callers run ahead
/// of the network, not memory.
const OUTGOING_FRAMES: usize = 16;

/// Requests that wait for an answer, about 200 bytes each. Pulls wait for other workers, so the bound must lie above the
/// number of a model's tensors, or workers with other orders of keys would wait for each other.
const UNANSWERED_REQUESTS: usize = 1 << 16;

/// A response and its body: the values of a pulled tensor, little-endian in memory, or nothing.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) values: Vec<f32>,
}

/// The requests' end of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    waiting: Arc<Waiting>,
    unanswered: Arc<Semaphore>,
    limits: FrameLimits,
    timeout: Duration,
    writer: Option<JoinHandle<()>>,
    /// Its end tells the writer that nobody is there any more.
    _alive: oneshot::Sender<()>,
    reader: AbortHandle,
}

#[derive(Debug)]
struct Outgoing {
    head: Vec<u8>,
    body: Bytes,
}

impl Connection {
    /// Takes over an authenticated stream. Must be called within a tokio runtime, whose tasks it uses.
    pub(crate) fn start(
        (read_half, write_half): (impl AsyncRead + Unpin + Send + 'static, impl AsyncWrite + Unpin + Send + 'static),
        limits: FrameLimits,
        timeout: Duration,
    ) -> Self {
        let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES);
        let waiting = Arc::new(Waiting::default());
        let (alive, gone) = oneshot::channel();
        let writer = tokio::spawn(write_frames(write_half, frames, Arc::clone(&waiting), (gone, timeout)));
        let reader = tokio::spawn(read_answers(read_half, limits, Arc::clone(&waiting)));
        Self {
            outgoing,
            waiting,
            unanswered: Arc::new(Semaphore::new(UNANSWERED_REQUESTS)),
            limits,
            timeout,
            writer: Some(writer),
            _alive: alive,
            reader: reader.abort_handle(),
        }
    }

    /// Sends a request and waits for its answer, which is no [`Response::Failed`]. Requests are sent in the order in
    /// which these futures are first polled. Dropping the future forgets the answer, not the request.
    ///
    /// `room` is memory for the answer's values: where it has as many, they replace what it holds, and nothing is
    /// allocated.
    pub(crate) async fn request(&self, request: &Request, body: Bytes, room: Vec<f32>) -> Result<Answer, ClientError> {
        request.check()?;
        let body_bytes = body.len() as u64;
        if body_bytes > self.limits.body_bytes {
            let limit = self.limits.body_bytes;
            return Err(stepbox_wire::FrameError::BodyTooLong { announced: body_bytes, limit }.into());
        }
        let answer = async {
            let permit = Arc::clone(&self.unanswered).acquire_owned().await.expect("this semaphore is never closed");
            // The place in the channel comes first: between taking an id and sending it nothing may be awaited, or a
            // dropped future would leave an id that is never answered.
            let place = self.outgoing.reserve().await.map_err(|_| self.waiting.ending())?;
            let (id, answer) = self.waiting.enter(permit, room)?;
            place.send(Outgoing { head: encode_request(id, request, body_bytes), body });
            answer.await.unwrap_or_else(|_| Err(self.waiting.ending()))
        };
        let answer = tokio::time::timeout(self.timeout, answer)
            .await
            .map_err(|_| ClientError::TimedOut { request: name(request), after: self.timeout })??;
        match answer.response {
            Response::Failed(failure) => Err(failure.into()),
            _ => Ok(answer),
        }
    }

    /// The alert by which the server's TLS has ended the connection, if it has.
    pub(crate) fn alert(&self) -> Option<AlertDescription> {
        match self.waiting.lock().ending {
            Some(Ending::Alert(alert)) => Some(alert),
            _ => None,
        }
    }

    /// Sends what is under way and says goodbye to the peer; for as long as a request may take, for the peer may have
    /// stopped to read.
    pub(crate) async fn close(mut self) {
        let writer = self.writer.take();
        // Ends the writer's channel, and the reader.
        drop(self);
        if let Some(writer) = writer {
            // It never panics; were it to, the connection would be closed all the same.
            let _ = writer.await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The requests that wait for an answer, or why none will come any more.
#[derive(Debug, Default)]
struct Waiting(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last_id: RequestId,
    requests: HashMap<RequestId, Waiter>,
    ending: Option<Ending>,
}

#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Result<Answer, ClientError>>,
    /// For the answer's values.
    room: Vec<f32>,
    /// Held until the server answers, also where the caller has given up.
    _permit: OwnedSemaphorePermit,
}

/// How a connection ended.
#[derive(Debug, Clone)]
enum Ending {
    /// The peer refused it as a whole.
    Refused(Failure),
    /// The peer broke the protocol.
    Protocol(String),
    /// It broke.
    Lost(String),
    /// TLS on the server's side ended it.
    Alert(AlertDescription),
}

impl From<Ending> for ClientError {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Refused(failure) => failure.into(),
            Ending::Protocol(reason) => Self::Protocol { reason },
            Ending::Lost(reason) => Self::ConnectionLost { reason },
            Ending::Alert(alert) => Self::ConnectionLost { reason: rustls::Error::AlertReceived(alert).to_string() },
        }
    }
}

impl Waiting {
    /// A new id, and where its answer will come.
    #[allow(clippy::type_complexity, reason = "the receiver's type is the sender's above")]
    fn enter(
        &self,
        permit: OwnedSemaphorePermit,
        room: Vec<f32>,
    ) -> Result<(RequestId, oneshot::Receiver<Result<Answer, ClientError>>), ClientError> {
        let mut state = self.lock();
        if let Some(ending) = &state.ending {
            return Err(ending.clone().into());
        }
        let (answer, receiver) = oneshot::channel();
        state.last_id += 1;
        let id = state.last_id;
        state.requests.insert(id, Waiter { answer, room, _permit: permit });
        Ok((id, receiver))
    }

    /// Memory for the values of a request's answer, as far as there is any.
    fn room(&self, id: RequestId) -> Vec<f32> {
        self.lock().requests.get_mut(&id).map(|waiter| std::mem::take(&mut waiter.room)).unwrap_or_default()
    }

    /// Hands an answer over. `Err` where nobody asked.
    fn answer(&self, id: RequestId, answer: Answer) -> Result<(), Ending> {
        let Some(waiter) = self.lock().requests.remove(&id) else {
            return Err(Ending::Protocol(format!(
                "it answers request {id}, which was not asked or is answered already"
            )));
        };
        // The caller may have given up.
        let _ = waiter.answer.send(Ok(answer));
        Ok(())
    }

    /// Ends the connection for all who wait and all who come. The first ending is the one that counts.
    fn end(&self, ending: Ending) {
        let mut state = self.lock();
        let ending = state.ending.get_or_insert(ending).clone();
        for (_, waiter) in state.requests.drain() {
            let _ = waiter.answer.send(Err(ending.clone().into()));
        }
    }

    fn ending(&self) -> ClientError {
        let ending = self.lock().ending.clone();
        ending.unwrap_or_else(|| Ending::Lost("the runtime it ran on is shutting down".into())).into()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write_frames(
    mut stream: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Outgoing>,
    waiting: Arc<Waiting>,
    (gone, at_most): (oneshot::Receiver<()>, Duration),
) {
    let late = async {
        // Ends without a word where the connection is dropped.
        let _ = gone.await;
        tokio::time::sleep(at_most).await;
    };
    let write = async {
        while let Some(frame) = frames.recv().await {
            stream.write_all(&frame.head).await?;
            stream.write_all(&frame.body).await?;
            // The body is the caller's memory: let go of it before waiting for the next frame.
            drop(frame);
            if frames.is_empty() {
                stream.flush().await?;
            }
        }
        stream.shutdown().await
    };
    let written: io::Result<()> = tokio::select! {
        written = write => written,
        () = late => Err(io::ErrorKind::TimedOut.into()),
    };
    match written {
        Ok(()) => {}
        // A peer that refuses a connection closes it while this side may still be writing; the reader finds its reasons
        // behind what was read so far, or the end of the stream, so the ending is the reader's to name.
        Err(error) if is_closed_by_peer(&error) => tracing::debug!(%error, "the server closed the connection"),
        Err(error) => waiting.end(Ending::Lost(error.to_string())),
    }
}

fn is_closed_by_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
    )
}

async fn read_answers(mut stream: impl AsyncRead + Unpin, limits: FrameLimits, waiting: Arc<Waiting>) {
    let ending = loop {
        match read_answer(&mut stream, &limits, &waiting).await {
            Ok((UNADDRESSED, Answer { response: Response::Failed(failure), .. })) => break Ending::Refused(failure),
            Ok((id, answer)) => {
                if let Err(ending) = waiting.answer(id, answer) {
                    break ending;
                }
            }
            Err(ending) => break ending,
        }
    };
    waiting.end(ending);
}

async fn read_answer(
    stream: &mut (impl AsyncRead + Unpin),
    limits: &FrameLimits,
    waiting: &Waiting,
) -> Result<(RequestId, Answer), Ending> {
    let mut prefix = [0; PREFIX_BYTES];
    if stream.read(&mut prefix[..1]).await.map_err(lost)? == 0 {
        return Err(Ending::Lost("the server closed it".into()));
    }
    stream.read_exact(&mut prefix[1..]).await.map_err(cut_off)?;
    let prefix = FramePrefix::decode(&prefix, limits).map_err(protocol)?;

    let mut header = vec![0; prefix.header_bytes as usize];
    stream.read_exact(&mut header).await.map_err(cut_off)?;
    let (id, response) = decode_response(&header).map_err(protocol)?;
    response.check_body(prefix.body_bytes).map_err(protocol)?;

    // Only tensors have bodies, so the bytes are whole elements and go straight to where the caller will find them.
    let elements = usize::try_from(prefix.body_bytes / size_of::<f32>() as u64)
        .map_err(|_| Ending::Protocol("it sends a tensor larger than this machine's memory".into()))?;
    let mut values = waiting.room(id);
    if values.capacity() < elements {
        // Fresh memory is zero as it comes; to lengthen what is there would write to all of it.
        values = vec![0.0; elements];
    }
    values.resize(elements, 0.0);
    stream.read_exact(bytemuck::cast_slice_mut(&mut values)).await.map_err(cut_off)?;
    Ok((id, Answer { response, values }))
}

fn protocol(error: stepbox_wire::FrameError) -> Ending {
    Ending::Protocol(error.to_string())
}

fn lost(error: io::Error) -> Ending {
    match tls_error(&error) {
        Some(rustls::Error::AlertReceived(alert)) => Ending::Alert(*alert),
        _ => Ending::Lost(error.to_string()),
    }
}

fn cut_off(error: io::Error) -> Ending {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Ending::Lost("the server closed it in the middle of an answer".into()),
        _ => lost(error),
    }
}

fn name(request: &Request) -> &'static str {
    match request {
        Request::Hello { .. } => "hello",
        Request::Register => "register",
        Request::Init { .. } => "init",
        Request::Push { .. } => "push",
        Request::Pull { .. } => "pull",
        Request::Barrier { .. } => "barrier",
        Request::Leave => "leave",
        Request::Deploy(_) => "deploy",
        Request::Status { .. } => "status",
        Request::SetSchedule { .. } => "set schedule",
        Request::PushRows { .. } => "push rows",
        Request::PullRows { .. } => "pull rows",
        Request::Rollback { .. } => "rollback",
        Request::Submit => "submit",
        Request::Activate { .. } => "activate",
        Request::Submissions => "submissions",
        Request::Withdraw { .. } => "withdraw",
    }
}
