//! Long work on threads outside the async runtime.

use stepbox_wire::ErrorCode;

use crate::names::{Answered, Refusal};

/// Runs what takes long on a thread of its own.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Answered<T> + Send + 'static,
) -> Answered<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(panicked(&panic)))
}

/// A task of the server's own has panicked.
pub(crate) fn panicked(panic: &tokio::task::JoinError) -> Refusal {
    tracing::error!(%panic, "a task has panicked");
    Refusal::new(ErrorCode::Internal, "the server failed while it worked on this; please report it with its log")
}
