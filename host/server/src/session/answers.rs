//! Answers as they go out.

use std::io;
use std::sync::Arc;

use stepbox_wire::{ErrorCode, Failure, RequestId, Response, encode_response};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::limits::Limits;
use crate::weights::Weights;

/// Answers that may wait to be sent on a connection. Those that carry weights share the published ones, so waiting costs
/// little; a peer that does not read stops being read from when they are used up.
pub(crate) const QUEUED_ANSWERS: usize = 64;

/// An answer on its way out.
#[derive(Debug)]
pub(crate) struct Answer {
    pub id: RequestId,
    pub response: Response,
    /// The body.
    pub weights: Option<Arc<Weights>>,
}

/// Sends answers in the order in which they are queued, until no one can queue any more. Ends early where the peer does
/// not take them.
pub(crate) async fn send_all(
    mut stream: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Answer>,
    limits: Limits,
) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        let body_bytes = answer.weights.as_ref().map_or(0, |weights| weights.bytes());
        let head = head(&answer, body_bytes, &limits);
        let send = async {
            stream.write_all(&head).await?;
            if let Some(weights) = &answer.weights {
                for chunk in weights.chunks() {
                    stream.write_all(chunk).await?;
                }
            }
            stream.flush().await
        };
        let bytes = head.len() as u64 + body_bytes;
        timeout(limits.time_for(bytes), send).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("the peer did not take an answer of {bytes} bytes in time"))
        })??;
    }
    timeout(limits.frame_seconds.duration(), stream.shutdown()).await?
}

/// Prefix and header. An answer that no client would take, a status of too many keys, becomes a failure.
fn head(answer: &Answer, body_bytes: u64, limits: &Limits) -> Vec<u8> {
    let head = encode_response(answer.id, &answer.response, body_bytes);
    if head.len() <= limits.header_bytes as usize {
        return head;
    }
    let message = format!("the answer's header of {} bytes is above limits.header_bytes", head.len());
    encode_response(answer.id, &Response::Failed(Failure { code: ErrorCode::Internal, message }), body_bytes)
}
