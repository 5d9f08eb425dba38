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

/// How long a source is remembered from which somebody has shown a good certificate, counted from the end of the
/// connection: a worker that was away over a weekend is still known.
pub(crate) const AUTHENTICATED: Duration = Duration::from_secs(3 * 24 * 3600);

/// A bounded number of entries, each kept for a while after its last use.
#[derive(Debug)]
pub(crate) struct Remembered<Key: Hash + Eq, Value> {
    entries: LruCache<Key, (Instant, Value)>,
    time: Duration,
}

impl<Key: Hash + Eq, Value> Remembered<Key, Value> {
    /// For [`REMEMBERED`].
    pub(crate) fn new() -> Self {
        Self::for_time(REMEMBERED)
    }

    /// Each for so long.
    pub(crate) fn for_time(time: Duration) -> Self {
        Self { entries: LruCache::new(const { NonZero::new(MAX_REMEMBERED).unwrap() }), time }
    }

    /// Whether it is remembered. Does not count as a use.
    pub(crate) fn knows(&self, key: &Key, now: Instant) -> bool {
        self.entries.peek(key).is_some_and(|(used, _)| now.saturating_duration_since(*used) <= self.time)
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
            && now.saturating_duration_since(*used) > self.time
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
