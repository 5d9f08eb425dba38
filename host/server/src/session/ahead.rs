//! Pulls that wait for more than the next version of their key.
//!
//! A pull that waits is looked at whenever its key has a new version. One for the next version is answered then; one for a
//! version far ahead is looked at in vain, round after round. So a connection has few of them for each key.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use stepbox_wire::ErrorCode;

use crate::model::Key;
use crate::names::{Answered, Refusal, TensorId};

/// Pulls of a connection that wait for more than the next version of the same key. Whoever waits for a certain round needs
/// one; looking at sixteen takes some microseconds of each round.
pub(crate) const PULLS_AHEAD: usize = 16;

/// Of a connection, how many there are of each key.
#[derive(Debug, Default)]
pub(super) struct PullsAhead(Mutex<HashMap<TensorId, usize>>);

/// A pull that waits; no longer counted when it is dropped.
#[derive(Debug)]
pub(super) struct PullAhead {
    pulls: Arc<PullsAhead>,
    key: TensorId,
}

impl PullsAhead {
    /// Counts a pull that is going to wait, where it is one for more than the next version.
    pub(super) fn enter(self: &Arc<Self>, key: &Key, version: u64) -> Answered<Option<PullAhead>> {
        if version <= key.version().saturating_add(1) {
            return Ok(None);
        }
        let mut keys = self.0.lock();
        let count = keys.entry(key.id).or_default();
        if *count >= PULLS_AHEAD {
            let message = format!(
                "{PULLS_AHEAD} pulls of this connection wait already for later versions of key `{}` than the next; pull \
                 version {version} when the round before it is done",
                key.name
            );
            return Err(Refusal::new(ErrorCode::Busy, message));
        }
        *count += 1;
        Ok(Some(PullAhead { pulls: Arc::clone(self), key: key.id }))
    }
}

impl Drop for PullAhead {
    fn drop(&mut self) {
        let mut keys = self.pulls.0.lock();
        if let Some(count) = keys.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pulls_wait_for_versions_far_ahead_and_any_number_for_the_next() {
        let (pulls, key) = (Arc::new(PullsAhead::default()), crate::model::key::tests::key("w", 1));
        let waiting: Vec<_> = (0..PULLS_AHEAD as u64).map(|ahead| pulls.enter(&key, 2 + ahead).unwrap()).collect();
        let refusal = pulls.enter(&key, u64::MAX).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Busy);
        assert!(pulls.enter(&key, 1).unwrap().is_none());
        drop(waiting);
        assert!(pulls.enter(&key, u64::MAX).unwrap().is_some());
        assert!(pulls.0.lock().is_empty(), "nothing is kept of pulls that are over");
    }
}
