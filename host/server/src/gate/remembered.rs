//! What is kept of peers that are not here.

use std::hash::Hash;
use std::num::NonZero;
use std::time::{Duration, Instant};

use lru::LruCache;

/// Most addresses, and most identities, of which something is remembered: a few hundred bytes each. Of a peer with more
/// addresses the oldest are forgotten, and the limits over all addresses hold.
pub(crate) const MAX_REMEMBERED: usize = 4096;

/// For how long: every rate is that of a second or a minute, and fresh again by then.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(120);

/// A bounded number of entries, each kept for a while after its last use.
#[derive(Debug)]
pub(crate) struct Remembered<Key: Hash + Eq, Value> {
    entries: LruCache<Key, (Instant, Value)>,
}

impl<Key: Hash + Eq, Value> Remembered<Key, Value> {
    pub(crate) fn new() -> Self {
        Self { entries: LruCache::new(const { NonZero::new(MAX_REMEMBERED).unwrap() }) }
    }

    /// What is remembered, or made anew.
    pub(crate) fn of(&mut self, key: Key, now: Instant, make: impl FnOnce() -> Value) -> &mut Value {
        self.forget(now);
        let (used, value) = self.entries.get_or_insert_mut(key, || (now, make()));
        *used = now;
        value
    }

    /// Keeps it from now on.
    pub(crate) fn keep(&mut self, key: Key, value: Value, now: Instant) {
        self.forget(now);
        self.entries.put(key, (now, value));
    }

    /// Takes it back.
    pub(crate) fn take(&mut self, key: &Key, now: Instant) -> Option<Value> {
        self.forget(now);
        self.entries.pop(key).map(|(_, value)| value)
    }

    /// Forgets what was not used for long. The least recently used is found first, so this costs what it forgets.
    pub(crate) fn forget(&mut self, now: Instant) {
        while let Some((_, (used, _))) = self.entries.peek_lru()
            && now.saturating_duration_since(*used) > REMEMBERED
        {
            self.entries.pop_lru();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_grows_beyond_its_bound_and_shrinks_with_time() {
        let now = Instant::now();
        let mut remembered = Remembered::new();
        for key in 0..3 * MAX_REMEMBERED {
            remembered.of(key, now, || key);
        }
        assert_eq!(remembered.len(), MAX_REMEMBERED);
        assert_eq!(*remembered.of(0, now, || 7), 7, "the oldest was forgotten");
        let later = now + REMEMBERED / 2;
        assert_eq!(*remembered.of(0, later, || 8), 7);
        remembered.forget(now + REMEMBERED + Duration::from_secs(1));
        assert_eq!(remembered.len(), 1, "only what was used since");
        assert_eq!(remembered.take(&0, later), Some(7));
        assert_eq!(remembered.len(), 0);
    }
}
