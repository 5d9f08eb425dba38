//! Which schedule gives the learning rate of which round.
//!
//! Schedules replace each other at rounds that no key has reached, so that all keys use the same rate in the same round.
//! Those that a key far behind still needs are kept.

use stepbox_wire::ScheduleStatus;

use super::schedule::Schedule;

/// Schedules kept for one optimizer. All keys of a synchronous job stand within a few rounds, so that one is in use and
/// one is to come; more are needed only while a key lags behind.
pub const MAX_SCHEDULES: usize = 16;

/// Numbers schedules in the order in which they were set.
pub(crate) type ScheduleId = u64;

/// Schedules in the order of their first rounds. Never empty.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates(Vec<Entry>);

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    id: ScheduleId,
    from_round: u64,
    schedule: Schedule,
}

/// What a round is computed with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub learning_rate: f64,
    pub peak: f64,
}

impl Rates {
    /// Of an optimizer that starts with this schedule, at a round to be chosen.
    pub fn new(id: ScheduleId, schedule: Schedule) -> Self {
        Self(vec![Entry { id, from_round: 1, schedule }])
    }

    /// Chooses the round of the first schedule.
    pub fn begin(&mut self, round: u64) {
        self.0[0].from_round = round;
    }

    /// The rate of a key's round.
    ///
    /// `since` is the schedule that was in force when the key came: that one, and older ones, the key has followed from
    /// its own first round on, however far other keys were. A key that comes to a schedule too early, because its round
    /// failed under the optimizer before, stays at the schedule's first rate until the schedule begins.
    pub fn at(&self, round: u64, since: ScheduleId) -> Rate {
        let entry = self.entry(round);
        let before = if entry.id <= since { 0 } else { entry.from_round - 1 };
        let learning_rate = entry.schedule.rate(round.saturating_sub(before));
        Rate { learning_rate, peak: entry.schedule.peak() }
    }

    /// Adds a schedule from a round on that no key has reached. `false` where there are too many.
    pub fn set(&mut self, id: ScheduleId, from_round: u64, schedule: Schedule) -> bool {
        // What was to start then, or later, never will.
        let kept = self.0.iter().filter(|entry| entry.from_round < from_round).count();
        if kept >= MAX_SCHEDULES {
            return false;
        }
        self.0.truncate(kept);
        self.0.push(Entry { id, from_round, schedule });
        true
    }

    /// Forgets what no key needs any more, of which the one that is furthest behind is about to run this round.
    pub fn forget_before(&mut self, lowest_open: u64) {
        let in_force = self.0.iter().rposition(|entry| entry.from_round <= lowest_open);
        self.0.drain(..in_force.unwrap_or(0));
    }

    /// The oldest schedule that a key still needs.
    pub fn oldest(&self) -> ScheduleId {
        self.0[0].id
    }

    /// The schedule that was set last.
    pub fn newest(&self) -> &Schedule {
        &self.newest_entry().schedule
    }

    /// All that are kept.
    pub fn all(&self) -> impl Iterator<Item = &Schedule> {
        self.0.iter().map(|entry| &entry.schedule)
    }

    /// The schedule that was set last, and when it starts.
    pub fn newest_status(&self) -> ScheduleStatus {
        self.newest_entry().status()
    }

    /// The schedule of a round, and one that is to come later.
    pub fn status(&self, round: u64) -> (ScheduleStatus, Option<ScheduleStatus>) {
        let (now, newest) = (self.entry(round), self.newest_entry());
        (now.status(), (newest.id != now.id).then(|| newest.status()))
    }

    fn entry(&self, round: u64) -> &Entry {
        self.0.iter().rev().find(|entry| entry.from_round <= round).unwrap_or(&self.0[0])
    }

    fn newest_entry(&self) -> &Entry {
        &self.0[self.0.len() - 1]
    }
}

impl Entry {
    fn status(&self) -> ScheduleStatus {
        let Self { from_round, schedule, .. } = self;
        ScheduleStatus { learning_rate: schedule.peak(), schedule: schedule.form(), from_round: *from_round }
    }
}

#[cfg(test)]
mod tests {
    use stepbox_wire::ScheduleKind;

    use super::*;

    fn linear(peak: f64) -> Schedule {
        let kind = ScheduleKind::Linear { rounds: 10, final_ratio: 0.0 };
        Schedule::new(peak, stepbox_wire::Schedule { warmup_rounds: 0, kind }).expect("a schedule")
    }

    fn rates(rates: &Rates, since: ScheduleId, rounds: std::ops::RangeInclusive<u64>) -> Vec<f64> {
        rounds.map(|round| rates.at(round, since).learning_rate).collect()
    }

    #[test]
    fn a_schedule_counts_from_the_round_it_was_set_for() {
        let mut set = Rates::new(1, Schedule::constant(0.5));
        assert!(set.set(2, 4, linear(1.0)));
        assert_eq!(rates(&set, 0, 1..=6), [0.5, 0.5, 0.5, 1.0, 0.9, 0.8]);
        assert_eq!(set.at(6, 0).peak, 1.0);
        assert!(set.set(3, 6, Schedule::constant(0.25)));
        assert!(set.set(4, 6, Schedule::constant(0.125)), "one that never started is replaced");
        assert_eq!(rates(&set, 0, 3..=7), [0.5, 1.0, 0.9, 0.125, 0.125]);
        let (now, pending) = set.status(5);
        assert_eq!((now.from_round, pending.map(|pending| pending.from_round)), (4, Some(6)));
        assert_eq!(set.status(6).1, None);
    }

    #[test]
    fn a_key_that_comes_late_follows_the_schedule_from_its_own_first_round() {
        let mut set = Rates::new(1, Schedule::constant(0.5));
        assert!(set.set(2, 100, linear(1.0)));
        set.forget_before(103);
        let since = set.oldest();
        assert_eq!(rates(&set, since, 1..=3), [1.0, 0.9, 0.8]);
        assert_eq!(rates(&set, 0, 100..=102), [1.0, 0.9, 0.8]);
        assert_eq!(rates(&set, since, 100..=101), [0.0, 0.0], "it has come to the end long before");
        assert!(set.set(3, 200, linear(1.0)));
        assert_eq!(rates(&set, since, 200..=201), rates(&set, 0, 200..=201), "later ones are the same for all");
    }

    #[test]
    fn a_key_that_comes_early_waits_at_the_start() {
        let mut set = Rates::new(1, linear(1.0));
        set.begin(5);
        assert_eq!(rates(&set, 0, 3..=6), [1.0, 1.0, 1.0, 0.9]);
    }

    #[test]
    fn what_a_key_far_behind_needs_is_kept_and_bounded() {
        let mut set = Rates::new(1, Schedule::constant(1.0));
        for number in 2..=MAX_SCHEDULES as u64 {
            assert!(set.set(number, number, Schedule::constant(number as f64)));
        }
        assert!(!set.set(99, 99, Schedule::constant(99.0)));
        assert_eq!(set.at(2, 0).learning_rate, 2.0);
        set.forget_before(3);
        assert_eq!(rates(&set, 0, 3..=5), [3.0, 4.0, 5.0]);
        assert!(set.set(99, 99, Schedule::constant(99.0)));
    }
}
