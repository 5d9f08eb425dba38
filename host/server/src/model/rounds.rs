//! One key's rounds: whose gradients have come, and when a round may run. No I/O, no clock.
//!
//! A key's version is the number of rounds it has been updated. Exactly one round is open, number `version + 1`. It
//! collects one gradient of each worker; the last one completes it, the gradients are handed out *in the order of ranks*
//! and the round is being updated until [`Rounds::succeed`] opens the next or [`Rounds::fail`] opens the same one again,
//! without its gradients. What a round yields therefore depends on what was pushed, never on the order of arrival.

use thiserror::Error;

use crate::names::Rank;

/// One key's rounds. `Gradient` is whatever holds one.
#[derive(Debug)]
pub(crate) struct Rounds<Gradient> {
    version: u64,
    pushed: Vec<Option<Gradient>>,
    stage: Stage,
    /// Workers whose gradients for the open round were discarded when it failed and who have not pushed again.
    discarded: Vec<bool>,
    /// Why the open round failed last.
    failure: Option<String>,
    /// Whether the gradients that were handed out last are of a run that has ended since: no worker of the present run has
    /// pushed them.
    is_of_ended_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Gradients are missing.
    Collecting,
    /// All are there and have been handed out.
    Updating,
}

/// What became of a push.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Push<Gradient> {
    /// It counts, and others are missing.
    Counted,
    /// It was there before; this one comes back unused.
    Repeated(Gradient),
    /// It was the last one: all gradients, by rank. Whoever takes them owes a [`Rounds::succeed`] or [`Rounds::fail`].
    Completed(Vec<Gradient>),
}

/// A push that belongs to no round that could take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("round {round} is not open, round {open} is; pull the key's weights and push the gradient computed from them")]
pub(crate) struct WrongRound {
    pub round: u64,
    pub open: u64,
}

impl<Gradient> Rounds<Gradient> {
    /// Of a new key, for a job of this many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            version: 0,
            pushed: (0..workers).map(|_| None).collect(),
            stage: Stage::Collecting,
            discarded: vec![false; workers],
            failure: None,
            is_of_ended_run: false,
        }
    }

    /// Rounds updated so far.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The round that is open, or being updated.
    pub fn open(&self) -> u64 {
        self.version + 1
    }

    /// The highest round that any gradient now counted, or used, belongs to.
    pub fn highest_pushed(&self) -> u64 {
        if self.stage == Stage::Updating || self.pushed.iter().any(Option::is_some) {
            self.open()
        } else {
            self.version
        }
    }

    /// Whether a push would be a repetition; asked before its body is read. A repetition of the round just done is one
    /// too: its sender cannot know yet that it is done. A gradient of a new run for a round of the one before is not: it
    /// was not used.
    pub fn is_repeated(&self, rank: Rank, round: u64) -> Result<bool, WrongRound> {
        if round == self.version && round > 0 && !self.is_of_ended_run {
            return Ok(true);
        }
        if round != self.open() {
            return Err(WrongRound { round, open: self.open() });
        }
        match self.stage {
            Stage::Collecting => Ok(self.pushed[rank as usize].is_some()),
            Stage::Updating if self.is_of_ended_run => Err(WrongRound { round, open: round + 1 }),
            Stage::Updating => Ok(true),
        }
    }

    /// Takes a worker's gradient for a round.
    pub fn push(&mut self, rank: Rank, round: u64, gradient: Gradient) -> Result<Push<Gradient>, WrongRound> {
        if self.is_repeated(rank, round)? {
            return Ok(Push::Repeated(gradient));
        }
        self.pushed[rank as usize] = Some(gradient);
        self.discarded[rank as usize] = false;
        if self.pushed.iter().any(Option::is_none) {
            return Ok(Push::Counted);
        }
        self.stage = Stage::Updating;
        self.is_of_ended_run = false;
        Ok(Push::Completed(self.pushed.iter_mut().filter_map(Option::take).collect()))
    }

    /// The round's update is done; the next round is open.
    pub fn succeed(&mut self) {
        debug_assert_eq!(self.stage, Stage::Updating);
        self.version += 1;
        self.stage = Stage::Collecting;
        self.discarded.fill(false);
        self.failure = None;
    }

    /// The round's update failed. The round is open again and wants every gradient anew.
    pub fn fail(&mut self, reason: impl Into<String>) {
        debug_assert_eq!(self.stage, Stage::Updating);
        self.stage = Stage::Collecting;
        // A new run's workers have lost nothing by it.
        self.discarded.fill(!self.is_of_ended_run);
        self.failure = Some(reason.into());
    }

    /// The open round cannot be completed as things are: it wants every gradient anew, and those that had come are given
    /// back. Changes nothing where none had, or where it is being updated.
    pub fn interrupt(&mut self, reason: impl Into<String>) -> Vec<Gradient> {
        if self.stage == Stage::Updating || self.pushed.iter().all(Option::is_none) {
            return Vec::new();
        }
        for (discarded, pushed) in self.discarded.iter_mut().zip(&self.pushed) {
            *discarded |= pushed.is_some();
        }
        self.failure = Some(reason.into());
        self.pushed.iter_mut().filter_map(Option::take).collect()
    }

    /// Forgets the gradients of a round that nobody is left to complete, and gives them back: the run has ended. A round
    /// that is being updated ends with the gradients that it has.
    pub fn abandon(&mut self) -> Vec<Gradient> {
        self.discarded.fill(false);
        self.is_of_ended_run = true;
        self.failure = None;
        self.pushed.iter_mut().filter_map(Option::take).collect()
    }

    /// Why the open round failed last, for a worker whose gradient was discarded by it: this worker waits in vain until
    /// it pushes again.
    pub fn failure_for(&self, rank: Rank) -> Option<&str> {
        self.failure.as_deref().filter(|_| self.discarded[rank as usize])
    }

    /// Whether the open round has failed before.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The workers whose gradients the open round waits for; none while it is being updated.
    pub fn missing(&self) -> impl Iterator<Item = Rank> {
        let collecting = self.stage == Stage::Collecting;
        (0..).zip(&self.pushed).filter_map(move |(rank, gradient)| (collecting && gradient.is_none()).then_some(rank))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn completed<G: std::fmt::Debug>(push: Result<Push<G>, WrongRound>) -> Vec<G> {
        match push {
            Ok(Push::Completed(gradients)) => gradients,
            other => panic!("the last push did not complete the round: {other:?}"),
        }
    }

    #[test]
    fn the_last_push_completes_the_round_and_gradients_come_by_rank() {
        let mut rounds = Rounds::new(3);
        assert_eq!(rounds.push(2, 1, "c"), Ok(Push::Counted));
        assert_eq!(rounds.push(0, 1, "a"), Ok(Push::Counted));
        assert_eq!(rounds.missing().collect::<Vec<_>>(), [1]);
        assert_eq!(completed(rounds.push(1, 1, "b")), ["a", "b", "c"]);
        assert_eq!(rounds.missing().count(), 0);
        rounds.succeed();
        assert_eq!((rounds.version(), rounds.open()), (1, 2));
        assert_eq!(rounds.missing().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_repeated_push_is_counted_once_whenever_it_comes() {
        let mut rounds = Rounds::new(2);
        assert_eq!(rounds.push(0, 1, 10), Ok(Push::Counted));
        assert_eq!(rounds.push(0, 1, 11), Ok(Push::Repeated(11)));
        assert_eq!(completed(rounds.push(1, 1, 20)), [10, 20]);
        assert_eq!(rounds.push(1, 1, 21), Ok(Push::Repeated(21)), "while it is being updated");
        rounds.succeed();
        assert_eq!(rounds.push(1, 1, 22), Ok(Push::Repeated(22)), "after it is done");
        assert_eq!(rounds.highest_pushed(), 1);
    }

    #[test]
    fn a_round_that_is_not_open_takes_nothing() {
        let mut rounds = Rounds::new(1);
        assert_eq!(rounds.push(0, 0, ()), Err(WrongRound { round: 0, open: 1 }), "rounds count from 1");
        assert_eq!(rounds.push(0, 2, ()), Err(WrongRound { round: 2, open: 1 }));
        for round in 1..=2 {
            completed(rounds.push(0, round, ()));
            rounds.succeed();
        }
        assert_eq!(rounds.push(0, 1, ()), Err(WrongRound { round: 1, open: 3 }));
    }

    #[test]
    fn a_failed_round_opens_again_and_tells_whoever_has_not_pushed_again() {
        let mut rounds = Rounds::new(2);
        rounds.push(0, 1, 1).expect("open");
        completed(rounds.push(1, 1, 2));
        rounds.fail("out of fuel");
        assert_eq!(rounds.highest_pushed(), 0, "what was discarded does not count");
        assert_eq!(rounds.failure_for(0), Some("out of fuel"));
        assert_eq!(rounds.push(0, 1, 3), Ok(Push::Counted));
        assert_eq!(rounds.failure_for(0), None, "it has pushed again");
        assert_eq!(rounds.failure_for(1), Some("out of fuel"), "its gradient is gone and it may not know");
        assert!(rounds.has_failed());
        assert_eq!(completed(rounds.push(1, 1, 4)), [3, 4]);
        rounds.succeed();
        assert!(!rounds.has_failed());
    }

    #[test]
    fn an_interrupted_round_wants_every_gradient_anew_and_tells_who_had_pushed() {
        let mut rounds = Rounds::new(2);
        assert!(rounds.interrupt("paused").is_empty());
        assert!(!rounds.has_failed(), "nothing was lost");
        rounds.push(0, 1, 1).expect("open");
        assert_eq!(rounds.interrupt("paused"), [1]);
        assert_eq!((rounds.failure_for(0), rounds.failure_for(1)), (Some("paused"), None));
        assert_eq!((rounds.highest_pushed(), rounds.open()), (0, 1));
        rounds.push(0, 1, 2).expect("open");
        assert_eq!(completed(rounds.push(1, 1, 3)), [2, 3]);
        assert!(rounds.interrupt("paused").is_empty(), "what is being updated ends");
        rounds.succeed();
        assert_eq!(rounds.version(), 1);
    }

    #[test]
    fn an_abandoned_round_starts_from_nothing() {
        let mut rounds = Rounds::new(2);
        rounds.push(1, 1, 7).expect("open");
        assert_eq!(rounds.abandon(), [7]);
        assert_eq!(rounds.missing().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(rounds.push(1, 1, 8), Ok(Push::Counted));
    }

    #[test]
    fn a_new_runs_gradient_is_no_repetition_of_the_old_runs() {
        let mut rounds = Rounds::new(2);
        rounds.push(0, 1, "old").expect("open");
        completed(rounds.push(1, 1, "old"));
        assert!(rounds.abandon().is_empty(), "they are being used");
        let being_updated = Err(WrongRound { round: 1, open: 2 });
        assert_eq!(rounds.push(0, 1, "new"), being_updated, "dropped without a word it would be lost");
        rounds.succeed();
        assert_eq!(rounds.push(0, 1, "new"), being_updated);
        assert_eq!(rounds.push(0, 2, "new"), Ok(Push::Counted));
        assert_eq!(completed(rounds.push(1, 2, "new")), ["new", "new"]);

        // Where the old run's round fails, the new run has nothing to do with it.
        assert!(rounds.abandon().is_empty());
        rounds.fail("out of fuel");
        assert_eq!(rounds.failure_for(0), None);
        assert_eq!(rounds.push(0, 2, "newer"), Ok(Push::Counted));
    }

    proptest! {
        /// Pushes of several rounds in any order within a round, repeated in any number: each round yields every
        /// worker's first gradient, by rank.
        #[test]
        fn results_depend_on_what_was_pushed_and_not_on_when(
            orders in prop::collection::vec(prop::collection::vec(0_u32..5, 0..12), 1..6),
        ) {
            const WORKERS: u32 = 5;
            let mut rounds = Rounds::new(WORKERS as usize);
            for (round, repetitions) in (1..).zip(orders) {
                // What comes at random, then everybody once more, so that the round ends.
                let mut result = None;
                let mut counted = 0;
                for (attempt, rank) in repetitions.into_iter().chain(0..WORKERS).enumerate() {
                    match rounds.push(rank, round, (rank, attempt)) {
                        Ok(Push::Counted) => counted += 1,
                        Ok(Push::Repeated(_)) => {}
                        Ok(Push::Completed(gradients)) => {
                            counted += 1;
                            prop_assert!(result.replace(gradients).is_none(), "completed twice");
                        }
                        Err(wrong) => prop_assert!(false, "{}", wrong),
                    }
                }
                prop_assert_eq!(counted, WORKERS);
                let ranks: Vec<_> = result.expect("completed").into_iter().map(|(rank, _)| rank).collect();
                prop_assert_eq!(ranks, (0..WORKERS).collect::<Vec<_>>());
                rounds.succeed();
                prop_assert_eq!(rounds.version(), round);
            }
        }

        /// Whatever is pushed and however rounds end, a version never moves by more than one and only by success.
        #[test]
        fn versions_move_by_success_only(
            events in prop::collection::vec((0_u32..3, 0_u64..6, any::<bool>()), 0..200),
        ) {
            let mut rounds = Rounds::new(3);
            for (rank, round, succeeds) in events {
                let before = rounds.version();
                if let Ok(Push::Completed(gradients)) = rounds.push(rank, round, ()) {
                    prop_assert_eq!(gradients.len(), 3);
                    if succeeds { rounds.succeed() } else { rounds.fail("no") }
                    prop_assert_eq!(rounds.version(), before + u64::from(succeeds));
                } else {
                    prop_assert_eq!(rounds.version(), before);
                }
            }
        }
    }
}
