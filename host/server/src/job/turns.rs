//! Whose turn it is to change a job's optimizer.
//!
//! One deployment at a time is compiled, tried and prepared, which can take minutes of somebody's hostile code. A rollback
//! must not wait for that: it has a turn of its own, and cancels the deployment that is being prepared. Only once a
//! deployment has begun to take effect, which is a matter of the disk, does a rollback wait for its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use stepbox_wire::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::names::{Answered, Refusal};

/// Turns of deployments, and of rollbacks.
#[derive(Debug)]
pub(crate) struct Turns {
    deploying: Arc<Semaphore>,
    rolling_back: Arc<Semaphore>,
    /// The deployment that has its turn, or had it last.
    newest: Mutex<Progress>,
}

impl Default for Turns {
    fn default() -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { deploying: one(), rolling_back: one(), newest: Mutex::default() }
    }
}

/// The turn to change the optimizer. It ends with this value.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    progress: Progress,
}

/// How far a deployment is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU8>);

const PREPARING: u8 = 0;
const CANCELLED: u8 = 1;
const TAKING_EFFECT: u8 = 2;

impl Turns {
    /// The turn of a deployment or an activation.
    pub fn deploy(&self) -> Answered<Turn> {
        let permit = Arc::clone(&self.deploying).try_acquire_owned().map_err(|_| under_way())?;
        let turn = Turn { _permit: permit, progress: Progress::default() };
        *self.newest.lock() = turn.progress.clone();
        // Only now: a rollback that begins later finds this one to cancel.
        if self.rolling_back.available_permits() == 0 {
            return Err(under_way());
        }
        Ok(turn)
    }

    /// The turn of a rollback. Cancels a deployment that is being prepared, and waits for one that is taking effect.
    pub async fn roll_back(&self) -> Answered<Turn> {
        let permit = Arc::clone(&self.rolling_back).try_acquire_owned().map_err(|_| under_way())?;
        let newest = self.newest.lock().clone();
        if !newest.cancel() {
            // Closed never, and free as soon as the deployment is remembered.
            let _ = self.deploying.acquire().await;
        }
        Ok(Turn { _permit: permit, progress: Progress::default() })
    }
}

impl Turn {
    /// What tells, while the turn lasts, whether it goes on.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl Progress {
    /// Whether nobody has cancelled it.
    pub fn check(&self) -> Answered<()> {
        if self.0.load(Ordering::Acquire) == CANCELLED { Err(cancelled()) } else { Ok(()) }
    }

    /// From here on it cannot be cancelled, unless it has been.
    pub fn take_effect(&self) -> Answered<()> {
        match self.0.compare_exchange(PREPARING, TAKING_EFFECT, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(_) => Err(cancelled()),
        }
    }

    /// Returns whether it will not take effect, or has not begun to.
    fn cancel(&self) -> bool {
        let outcome = self.0.compare_exchange(PREPARING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        outcome.is_ok() || outcome == Err(CANCELLED)
    }
}

fn under_way() -> Refusal {
    Refusal::new(ErrorCode::Busy, "another deployment or rollback is under way; try again")
        .because("deployment-under-way")
}

fn cancelled() -> Refusal {
    let message = "a rollback has cancelled this deployment before it took effect; nothing has changed by it";
    Refusal::new(ErrorCode::Busy, message).because("cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason<T>(outcome: Answered<T>) -> Option<&'static str> {
        outcome.err().and_then(|refusal| refusal.reason)
    }

    #[tokio::test]
    async fn a_rollback_cancels_what_is_being_prepared_and_nothing_is_deployed_beside_it() {
        let turns = Turns::default();
        let deployment = turns.deploy().expect("it is the only one");
        assert_eq!(reason(turns.deploy()), Some("deployment-under-way"));
        let rollback = turns.roll_back().await.expect("it does not wait");
        assert_eq!(reason(deployment.progress().check()), Some("cancelled"));
        assert_eq!(reason(deployment.progress().take_effect()), Some("cancelled"));
        assert_eq!(reason(turns.roll_back().await), Some("deployment-under-way"));
        drop(deployment);
        assert_eq!(reason(turns.deploy()), Some("deployment-under-way"), "the rollback goes first");
        rollback.progress().take_effect().expect("nobody cancels a rollback");
        drop(rollback);
        assert!(turns.deploy().is_ok());
    }

    #[tokio::test]
    async fn a_rollback_waits_for_what_is_taking_effect() {
        let turns = Turns::default();
        let deployment = turns.deploy().expect("it is the only one");
        deployment.progress().take_effect().expect("nobody has cancelled it");
        let mut rollback = std::pin::pin!(turns.roll_back());
        assert!(futures_poll(rollback.as_mut()).await.is_none(), "it waits");
        drop(deployment);
        assert!(rollback.await.is_ok());
    }

    /// What a future is at now.
    async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
