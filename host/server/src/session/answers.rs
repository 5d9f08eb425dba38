//! Answers as they go out.

use std::io;
use std::sync::Arc;

use stepbox_wire::{ErrorCode, Failure, RequestId, Response, encode_response};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::key::Key;
use crate::limits::Limits;

/// Answers that may wait to be sent on a connection. They are small: weights are fetched when they are sent. A peer that
/// does not read stops being read from when they are used up.
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
}

/// Sends answers in the order in which they are queued, until no one can queue any more. Ends early where the peer does
/// not take them.
pub(crate) async fn send_all(
    mut stream: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Answer>,
    limits: Limits,
) -> io::Result<()> {
    while let Some(Answer { id, content }) = answers.recv().await {
        let (head, weights) = match content {
            Content::Message(response) => (head(id, &response, &limits), None),
            Content::Weights(key) => {
                let weights = key.weights();
                let response = Response::Pulled { version: weights.version, tensor: key.tensor.clone() };
                (encode_response(id, &response, weights.bytes()), Some(weights))
            }
        };
        let bytes = head.len() as u64 + weights.as_ref().map_or(0, |weights| weights.bytes());
        let send = async {
            stream.write_all(&head).await?;
            for chunk in weights.iter().flat_map(|weights| weights.chunks()) {
                stream.write_all(chunk).await?;
            }
            stream.flush().await
        };
        timeout(limits.time_for(bytes), send).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("the peer did not take an answer of {bytes} bytes in time"))
        })??;
    }
    timeout(limits.frame_seconds.duration(), stream.shutdown()).await?
}

/// Prefix and header. An answer that no client would take, a status of too many keys, becomes a failure.
fn head(id: RequestId, response: &Response, limits: &Limits) -> Vec<u8> {
    let head = encode_response(id, response, 0);
    if head.len() <= limits.header_bytes as usize {
        return head;
    }
    let message = format!("the answer's header of {} bytes is above limits.header_bytes", head.len());
    encode_response(id, &Response::Failed(Failure { code: ErrorCode::Internal, message }), 0)
}
