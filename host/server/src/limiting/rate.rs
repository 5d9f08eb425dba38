//! How often something may happen: the generic cell rate algorithm (ITU-T I.371, appendix I), in its form as a virtual
//! schedule.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The part of a second's number that there is at once after a rest: what comes in bursts is soon done, and a flood has no
/// more of the first second than of the next.
const AT_ONCE: u64 = 4;

/// So many in a time, and some at once after a rest.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Between two, when there was no rest.
    interval: f64,
    /// How far ahead of an even pace one may be.
    tolerance: f64,
    start: Instant,
    /// Seconds after `start` at which an even pace has used up what was taken.
    used_up: Mutex<f64>,
    /// Whoever waits, one after the other.
    queue: tokio::sync::Mutex<()>,
}

impl Rate {
    /// So many in a second, and a quarter of them at once after a rest.
    pub(crate) fn a_second(count: u64, now: Instant) -> Self {
        Self::new(count, Duration::from_secs(1), (count / AT_ONCE).max(1), now)
    }

    /// So many in a minute, and as many at once after a rest.
    pub(crate) fn a_minute(count: u64, now: Instant) -> Self {
        Self::new(count, Duration::from_secs(60), count, now)
    }

    fn new(count: u64, period: Duration, at_once: u64, now: Instant) -> Self {
        let interval = period.as_secs_f64() / count.max(1) as f64;
        let tolerance = interval * at_once as f64;
        Self { interval, tolerance, start: now, used_up: Mutex::new(0.0), queue: tokio::sync::Mutex::default() }
    }

    /// Takes one, or says how long until there is one.
    pub(crate) fn take(&self, now: Instant) -> Result<(), Duration> {
        self.take_many(1, now)
    }

    /// Takes several, whether or not they are there: those that come next wait.
    pub(crate) fn charge(&self, count: u64, now: Instant) {
        let now = self.since_start(now);
        let mut used_up = self.used_up.lock();
        *used_up = used_up.max(now) + self.interval * count as f64;
    }

    /// Takes several at once: as soon as one is there, so that what is more than all that can be there at once is not
    /// waited for in vain. Those that come next wait the longer.
    pub(crate) fn take_many(&self, count: u64, now: Instant) -> Result<(), Duration> {
        let now = self.since_start(now);
        let mut used_up = self.used_up.lock();
        let wait = self.wait(*used_up, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        *used_up = used_up.max(now) + self.interval * count as f64;
        Ok(())
    }

    /// Until there is one.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.wait(*self.used_up.lock(), self.since_start(now))
    }

    fn wait(&self, used_up: f64, now: f64) -> Duration {
        let ahead = used_up.max(now) - now;
        // Of one: what is left of the time for it has to be there.
        let wait = ahead + self.interval - self.tolerance;
        // Below it is the rounding of these sums.
        if wait > 1e-9 { Duration::from_secs_f64(wait) } else { Duration::ZERO }
    }

    fn since_start(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.start).as_secs_f64()
    }

    /// Waits for as many; others who wait come in the order in which they came. Returns whether it had to.
    pub(crate) async fn wait_for(&self, count: u64) -> bool {
        if self.take_many(count, Instant::now()).is_ok() {
            return false;
        }
        let _turn = self.queue.lock().await;
        while let Err(wait) = self.take_many(count, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_rest_there_are_as_many_as_in_a_period_and_then_an_even_pace() {
        let start = Instant::now();
        let rate = Rate::new(4, Duration::from_secs(2), 4, start);
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        for _ in 0..4 {
            assert_eq!(rate.take(at(0.0)), Ok(()));
        }
        assert_eq!(rate.take(at(0.0)), Err(Duration::from_millis(500)));
        assert_eq!(rate.take(at(0.25)), Err(Duration::from_millis(250)));
        assert_eq!(rate.take(at(0.5)), Ok(()));
        assert!(rate.take(at(0.5)).is_err());
        // However long the rest, no more.
        for _ in 0..4 {
            assert_eq!(rate.take(at(1000.0)), Ok(()));
        }
        assert!(rate.take(at(1000.0)).is_err());
    }

    #[test]
    fn more_than_fit_are_taken_once_and_paid_for_later() {
        let start = Instant::now();
        let rate = Rate::new(10, Duration::from_secs(1), 10, start);
        assert_eq!(rate.take_many(50, start), Ok(()));
        assert_eq!(rate.take(start), Err(Duration::from_millis(4_100)));
        assert!(rate.take(start + Duration::from_secs(4)).is_err());
        assert_eq!(rate.take(start + Duration::from_millis(4_101)), Ok(()));
    }

    #[tokio::test]
    async fn whoever_waits_gets_it() {
        let rate = Rate::a_second(4, Instant::now());
        assert!(!rate.wait_for(1).await);
        rate.charge(4, Instant::now());
        assert!(rate.wait_for(1).await);
    }
}
