//! Log lines that a peer could cause at will.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Between two log lines of the same kind, where a peer can cause them before anybody knows who it is: floods are told
/// of once, with how many there were.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one line through in a while, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Mutex<(Option<Instant>, u64)>);

impl LogThrottle {
    /// Whether to write a line now; if so, how many were not written since the last.
    pub(crate) fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_quick_succession_are_counted() {
        let (throttle, now) = (LogThrottle::default(), Instant::now());
        assert_eq!(throttle.allow(now), Some(0));
        assert_eq!(throttle.allow(now), None);
        assert_eq!(throttle.allow(now), None);
        assert_eq!(throttle.allow(now + INTERVAL), Some(2));
        assert_eq!(throttle.allow(now + INTERVAL * 2), Some(0));
    }
}
