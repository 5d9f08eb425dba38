//! How far this client is with each key.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::ClientError;

/// The versions a client has seen, by key. Holds one entry for each key this client has named with success.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    keys: Mutex<HashMap<String, Key>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Key {
    /// Version of the weights last seen.
    version: u64,
    /// Last round pushed, 0 for none.
    pushed: u64,
}

impl Progress {
    /// The round a gradient of this key belongs to.
    pub(crate) fn round(&self, key: &str) -> Result<u64, ClientError> {
        let keys = self.lock();
        let known = keys.get(key).ok_or_else(|| ClientError::UnknownVersion { key: key.to_owned() })?;
        Ok(known.version + 1)
    }

    /// The version a pull is to wait for: the one this client's last push leads to.
    pub(crate) fn awaited(&self, key: &str) -> u64 {
        self.lock().get(key).map_or(0, |known| known.version.max(known.pushed))
    }

    /// The server has told this version.
    pub(crate) fn saw(&self, key: &str, version: u64) {
        let mut keys = self.lock();
        let known = entry(&mut keys, key);
        known.version = known.version.max(version);
    }

    /// The server has this client's gradient for this round.
    pub(crate) fn pushed(&self, key: &str, round: u64) {
        let mut keys = self.lock();
        let known = entry(&mut keys, key);
        known.pushed = known.pushed.max(round);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Key>> {
        // Numbers are written whole, so a panic elsewhere leaves nothing half done.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(keys: &'a mut HashMap<String, Key>, key: &str) -> &'a mut Key {
    if !keys.contains_key(key) {
        keys.insert(key.to_owned(), Key::default());
    }
    keys.get_mut(key).expect("it was put there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_follow_versions_and_pulls_follow_pushes() {
        let progress = Progress::default();
        progress.round("w").expect_err("nothing is known yet");
        assert_eq!(progress.awaited("w"), 0);

        progress.saw("w", 5);
        assert_eq!((progress.round("w").ok(), progress.awaited("w")), (Some(6), 5));
        progress.pushed("w", 6);
        assert_eq!((progress.round("w").ok(), progress.awaited("w")), (Some(6), 6));
        progress.saw("w", 6);
        assert_eq!((progress.round("w").ok(), progress.awaited("w")), (Some(7), 6));
        // A late answer takes nothing back.
        progress.saw("w", 4);
        assert_eq!(progress.round("w").ok(), Some(7));
    }
}
