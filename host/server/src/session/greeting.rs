//! The greeting: the first request of a connection, which decides whether it is let in.

use std::sync::Arc;

use stepbox_wire::{
    ErrorCode, Failure, PROTOCOL_VERSION, Request, RequestId, UNADDRESSED, decode_request, request_id_of,
};
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::sync::OwnedSemaphorePermit;

use super::frames::{FrameReader, ReadError};
use super::refusals::{refused, refused_by_server};
use crate::job::{Job, Jobs};
use crate::names::{Answered, Identity, Refusal};
use crate::peer::CertificateWatch;

/// A peer that is let in.
pub(super) struct Greeted {
    pub id: RequestId,
    pub job: Arc<Job>,
    /// Its place among the job's connections.
    pub place: OwnedSemaphorePermit,
}

/// A peer that is not, and what it is told where it listens.
pub(super) struct TurnedAway(pub Option<(RequestId, Failure)>);

/// Why a peer was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Unwelcome {
    /// It said no hello.
    #[error("no hello in time (limits.handshake_seconds), or none at all")]
    Silent,
    /// It was told so.
    #[error("{}", match .0 { ErrorCode::Forbidden => "no part in a job of this server", code => code.name() })]
    Refused(ErrorCode),
}

pub(super) fn invalid(reason: &str) -> Refusal {
    Refusal::new(ErrorCode::CertificateInvalid, format!("{reason}; connect again with a good certificate"))
}

/// Has the peer say what its certificate does not: its version, and which job it comes for.
pub(super) async fn greet<Stream: AsyncRead + Unpin>(
    jobs: &Jobs,
    identity: &Identity,
    certificate: &CertificateWatch,
    reader: &mut FrameReader<Stream>,
) -> Result<Greeted, TurnedAway> {
    let (id, request) = match reader.next(|| true).await {
        Ok((_, header)) => match decode_request(&header) {
            Ok((id, request)) => (id, Ok(request)),
            Err(error) => (request_id_of(&header).unwrap_or(UNADDRESSED), Err(Refusal::from(&error))),
        },
        Err(ReadError::Frame(error)) => (UNADDRESSED, Err(Refusal::from(&error))),
        Err(error) => {
            tracing::warn!(%identity, reason = %error, "the peer did not say hello");
            return Err(TurnedAway(None));
        }
    };
    let greeting = request.and_then(|request| greeting(&request));
    // What is no greeting names no job, like one that leaves it out.
    let job = jobs.named(greeting.as_deref().unwrap_or_default()).cloned();
    // It may have been revoked since the handshake.
    let greeting = certificate.check().map_err(|reason| invalid(&reason)).and(greeting);
    match greeting.and_then(|name| jobs.enter(&name, identity)) {
        Ok((job, place)) => Ok(Greeted { id, job, place }),
        Err(refusal) => {
            // The job's people see who knocked; who knocked does not see whether there is a job.
            let answer = match job {
                Some(job) => refused(&job, identity, "hello", "", refusal),
                None => refused_by_server(jobs, identity, "hello", refusal),
            };
            Err(TurnedAway(Some((id, answer))))
        }
    }
}

/// The job's name in a greeting that is one.
fn greeting(request: &Request) -> Answered<String> {
    match request {
        Request::Hello { protocol: PROTOCOL_VERSION, job } => Ok(job.clone()),
        Request::Hello { protocol, .. } => Err(Refusal::new(
            ErrorCode::ProtocolVersion,
            format!("you speak protocol {protocol}, this server speaks {PROTOCOL_VERSION}; use matching versions"),
        )),
        _ => Err(Refusal::new(ErrorCode::OutOfOrder, "a connection's first request is hello")),
    }
}
