//! Answers as they go out.

use std::io;
use std::sync::Arc;

use stepbox_wire::{ErrorCode, Failure, RequestId, Response, TensorType, encode_response};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use super::refusals::refused;
use crate::config::Limits;
use crate::job::Job;
use crate::limiting::{Account, Direction, Held};
use crate::model::Key;
use crate::names::{Answered, Identity};
use crate::report::{REPORT_BYTES, Report};
use crate::round::{evaluation, published};
use crate::tensor::{RowLayout, Weights};

/// Answers that may wait to be sent on a connection. They are small: weights are fetched and reports made when they are
/// sent. A peer that does not read stops being read from when they are used up.
pub(crate) const QUEUED_ANSWERS: usize = 64;

/// An answer on its way out.
pub(crate) struct Answer {
    pub id: RequestId,
    pub content: Content,
}

/// What an answer says.
pub(crate) enum Content {
    /// This.
    Message(Response),
    /// The key's weights as they are when the answer is sent, which are those that were asked for or newer ones: so a
    /// slow peer holds one version in memory, not one for each of its pulls.
    Weights(Arc<Key>),
    /// The key's weights for evaluation, which are made when the answer is sent: a copy of the tensor, so there has to be
    /// room for it before.
    Evaluation(Arc<Key>),
    /// These rows of the key's weights, as they are when the answer is sent.
    Rows(Arc<Key>, RowIds),
    /// What the server tells of itself, made when the answer is sent.
    Report(Report),
}

impl Content {
    /// The request that it answers and the key that it is about, where it is about one.
    fn asked_by(&self) -> (&'static str, &str) {
        match self {
            Self::Message(_) => ("answer", ""),
            Self::Weights(key) | Self::Evaluation(key, ..) => ("pull", &key.name),
            Self::Rows(key, _) => ("pull rows", &key.name),
            Self::Report(report) => (report.name(), ""),
        }
    }

    /// Whether the right to it is still there: it may have waited long for those before it.
    fn may_go(&self, job: &Job, identity: &Identity) -> Answered<()> {
        match self {
            Self::Message(_) => Ok(()),
            Self::Weights(key) | Self::Evaluation(key) | Self::Rows(key, _) => {
                job.access.require_pull(identity, &key.name)
            }
            Self::Report(report) => report.check_right(job, identity),
        }
    }

    /// Bytes of its body.
    fn body_bytes(&self) -> u64 {
        match self {
            Self::Message(_) | Self::Report(_) => 0,
            Self::Weights(key) | Self::Evaluation(key) => key.tensor.bytes().unwrap_or(0),
            Self::Rows(_, rows) => rows.bytes(),
        }
    }

    /// Bytes that are held while it is sent.
    fn held_bytes(&self) -> u64 {
        match self {
            Self::Report(_) => REPORT_BYTES,
            Self::Rows(_, rows) => rows.bytes() + size_of_val(rows.ids.as_slice()) as u64,
            Self::Message(_) | Self::Weights(_) | Self::Evaluation(_) => self.body_bytes(),
        }
    }
}

/// Ids that are in range, and the room that they take.
pub(crate) struct RowIds {
    pub ids: Vec<u64>,
    pub layout: RowLayout,
    /// Their part of the identity's `limits.row_ids`, until the answer's turn to be sent has come.
    pub held: Option<OwnedSemaphorePermit>,
}

/// What follows an answer's header.
enum Body {
    Nothing,
    Weights(Arc<Weights>),
    /// Rows of published weights.
    Rows(Arc<Weights>, RowIds),
    /// Rows that were read for this answer.
    Read(Vec<u8>),
}

/// Bytes of rows that are gathered before they are sent.
const GATHERED_BYTES: usize = 256 << 10;

/// Sends answers in the order in which they are queued, until no one can queue any more, and several together where they
/// are there. Ends early where the peer does not take them.
pub(crate) async fn send_all(
    mut stream: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Answer>,
    (job, identity): (Arc<Job>, Identity),
    account: Arc<Account>,
) -> io::Result<()> {
    let limits = &job.config.limits;
    while let Some(Answer { id, content }) = answers.recv().await {
        // Before what is to be sent is taken hold of.
        account.body(content.body_bytes()).await;
        let turn = if let Content::Evaluation(_) = content { account.evaluation().await } else { None };
        let room = account.room(Direction::Sending, content.held_bytes(), &job.rooms).await;
        let (content, _room) = match room.and_then(|room| content.may_go(&job, &identity).map(|()| room)) {
            Ok(room) => (content, room),
            Err(refusal) => {
                account.refused(refusal.code);
                let (request, key) = content.asked_by();
                let failure = refused(&job, &identity, request, key, refusal);
                (Content::Message(Response::Failed(failure)), Held::default())
            }
        };
        let (head, body) = match content {
            Content::Message(response) => (head(id, &response, limits), Body::Nothing),
            Content::Report(report) => {
                let name = report.name();
                let made = report.make(&job).await.unwrap_or_else(|refusal| {
                    account.refused(refusal.code);
                    Response::Failed(refused(&job, &identity, name, "", refusal))
                });
                (head(id, &made, limits), Body::Nothing)
            }
            Content::Weights(key) => match published::weights(&job, &key).await {
                Ok(weights) => whole(id, &key, weights),
                Err(reason) => failed(id, reason, limits),
            },
            Content::Evaluation(key) => match evaluation::weights(&job, &key).await {
                Ok(weights) => whole(id, &key, weights),
                Err(refusal) => {
                    account.refused(refusal.code);
                    let failure = refused(&job, &identity, "pull", &key.name, refusal);
                    (head(id, &Response::Failed(failure), limits), Body::Nothing)
                }
            },
            Content::Rows(key, RowIds { ids, layout, held }) => {
                // Nobody waits for them any more: who has the answer may ask for as many at once.
                drop(held);
                let rows = RowIds { ids, layout, held: None };
                match some_rows(&job, &key, rows).await {
                    Ok((version, tensor, body)) => {
                        (encode_response(id, &Response::PulledRows { version, tensor }, body.bytes()), body)
                    }
                    Err(reason) => failed(id, reason, limits),
                }
            }
        };
        drop(turn);
        let bytes = head.len() as u64 + body.bytes();
        let send = async {
            stream.write_all(&head).await?;
            match &body {
                Body::Nothing => {}
                Body::Weights(weights) => {
                    for chunk in weights.chunks() {
                        stream.write_all(chunk).await?;
                    }
                }
                Body::Rows(weights, rows) => send_rows(&mut stream, weights, rows).await?,
                Body::Read(rows) => stream.write_all(rows).await?,
            }
            // One call into the kernel for all that is there.
            if answers.is_empty() { stream.flush().await } else { Ok(()) }
        };
        timeout(limits.time_for(bytes), send).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("the peer did not take an answer of {bytes} bytes in time"))
        })??;
    }
    timeout(limits.frame_seconds.duration(), stream.shutdown()).await?
}

/// Sends the one answer that a peer gets who is not let in.
pub(crate) async fn send_last(
    mut stream: impl AsyncWrite + Unpin,
    id: RequestId,
    response: Response,
    limits: Limits,
) -> io::Result<()> {
    let send = async {
        stream.write_all(&head(id, &response, &limits)).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    timeout(limits.frame_seconds.duration(), send).await?
}

fn whole(id: RequestId, key: &Key, weights: Arc<Weights>) -> (Vec<u8>, Body) {
    let response = Response::Pulled { version: weights.version, tensor: key.tensor.clone() };
    (encode_response(id, &response, weights.bytes()), Body::Weights(weights))
}

/// Rows of a key: of its published weights, piece by piece as they are sent, or else out of the sandbox.
async fn some_rows(job: &Arc<Job>, key: &Arc<Key>, rows: RowIds) -> Result<(u64, TensorType, Body), String> {
    let mut tensor = key.tensor.clone();
    tensor.shape[0] = rows.ids.len() as u64;
    match key.weights() {
        Some(weights) => Ok((weights.version, tensor, Body::Rows(weights, rows))),
        None => {
            let (version, read) = published::rows(job, key, rows.layout, rows.ids).await?;
            Ok((version, tensor, Body::Read(read)))
        }
    }
}

fn failed(id: RequestId, message: String, limits: &Limits) -> (Vec<u8>, Body) {
    let failure = Failure { code: ErrorCode::Internal, message, reason: None };
    (head(id, &Response::Failed(failure), limits), Body::Nothing)
}

impl Body {
    fn bytes(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Weights(weights) => weights.bytes(),
            Self::Read(rows) => rows.len() as u64,
            Self::Rows(_, rows) => rows.bytes(),
        }
    }
}

impl RowIds {
    /// Of the rows.
    fn bytes(&self) -> u64 {
        self.ids.len() as u64 * self.layout.row_bytes as u64
    }
}

async fn send_rows(stream: &mut (impl AsyncWrite + Unpin), weights: &Weights, rows: &RowIds) -> io::Result<()> {
    let row_bytes = rows.layout.row_bytes;
    let mut gathered = Vec::new();
    for ids in rows.ids.chunks(GATHERED_BYTES.div_ceil(row_bytes.max(1))) {
        gathered.clear();
        for id in ids {
            let start = *id as usize * row_bytes;
            weights.copy_to(&mut gathered, start..start + row_bytes);
        }
        stream.write_all(&gathered).await?;
    }
    Ok(())
}

/// Prefix and header. An answer that is longer than peers are told to expect becomes a failure.
fn head(id: RequestId, response: &Response, limits: &Limits) -> Vec<u8> {
    let head = encode_response(id, response, 0);
    if head.len() <= limits.header_bytes as usize {
        return head;
    }
    let message = format!("the answer's header of {} bytes is above limits.header_bytes", head.len());
    encode_response(id, &Response::Failed(Failure { code: ErrorCode::Internal, message, reason: None }), 0)
}
