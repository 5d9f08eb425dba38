//! Where tensors meet in a round: accumulators over a group or the whole model are complete when the last tensor has
//! given its part.
//!
//! Each key's update waits here, before the phase that reads the accumulators, until all keys that the optimizer
//! combines have brought theirs for the same round. Workers must therefore push all keys of a round before they pull any.
//!
//! Once complete, what was given stays as it is until the next round is: a key whose update failed after the meeting and
//! is tried again reads the numbers that the others have used. That no more than two rounds are kept follows: a key
//! brings its part for a round only after it has finished the one before. Who waits in vain takes its part back, since
//! its gradient is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::optimizer::OptimizerId;
use crate::shard::KeyId;

/// What is met about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Occasion {
    pub optimizer: OptimizerId,
    /// The group whose tensors meet; `None` for the whole model.
    pub group: Option<String>,
    pub round: u64,
    pub phase: u32,
}

/// What a key brings: its place in the order, and a number for each accumulator by name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    pub identity: u64,
    pub numbers: Vec<(String, f64)>,
}

/// Where all keys of a job meet.
pub(crate) struct Rendezvous {
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    meetings: BTreeMap<Occasion, Meeting>,
    /// Counts runs that have ended.
    run: u64,
    /// Counts how often an optimizer's meetings were abandoned.
    abandoned: BTreeMap<OptimizerId, u64>,
    /// For each key whose last meeting did not come about in time, the keys that were missing. A pull whose time-out ends
    /// before the round's failure is known still names them.
    missed: BTreeMap<KeyId, BTreeSet<KeyId>>,
}

impl State {
    /// Changes whenever the incomplete meetings of an optimizer end.
    fn epoch(&self, optimizer: OptimizerId) -> (u64, u64) {
        (self.run, self.abandoned.get(&optimizer).copied().unwrap_or(0))
    }
}

struct Meeting {
    /// As the first to come saw it.
    expected: BTreeSet<KeyId>,
    parts: BTreeMap<KeyId, Part>,
    /// All parts in order of the tensors' identities, once all are there.
    complete: Option<Arc<[Part]>>,
}

/// Why a meeting did not come about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// These keys did not come in time.
    Missing(BTreeSet<KeyId>),
    /// The run that it belonged to has ended.
    RunEnded,
}

impl Default for Rendezvous {
    fn default() -> Self {
        Self { state: Mutex::default(), changes: watch::Sender::new(()) }
    }
}

impl Rendezvous {
    /// Brings a key's part and waits for those of all keys that are `expected`. Returns all parts in order of the
    /// tensors' identities.
    pub async fn meet(
        &self,
        occasion: &Occasion,
        key: KeyId,
        part: Part,
        expected: impl FnOnce() -> BTreeSet<KeyId>,
        patience: Duration,
    ) -> Result<Arc<[Part]>, Broken> {
        let mut changes = self.changes.subscribe();
        let (epoch, complete) = self.bring(occasion, key, part, expected);
        if complete {
            self.changes.send_replace(());
        }
        let arrived = async {
            loop {
                changes.mark_unchanged();
                if let Some(outcome) = self.look(occasion, epoch) {
                    return outcome;
                }
                if changes.changed().await.is_err() {
                    return Err(Broken::RunEnded);
                }
            }
        };
        match tokio::time::timeout(patience, arrived).await {
            Ok(outcome) => outcome,
            Err(_) => self.leave(occasion, key),
        }
    }

    /// The keys that this key's update waits for, or last waited for in vain.
    pub fn missing_for(&self, key: KeyId) -> BTreeSet<KeyId> {
        let state = self.state.lock();
        if let Some(missed) = state.missed.get(&key) {
            return missed.clone();
        }
        let waiting = state.meetings.values().filter(|meeting| meeting.parts.contains_key(&key));
        waiting
            .flat_map(|meeting| meeting.expected.iter().filter(move |other| !meeting.parts.contains_key(other)))
            .copied()
            .collect()
    }

    /// Ends all meetings that are not complete: the run that they belonged to has ended.
    pub fn abandon(&self) {
        let mut state = self.state.lock();
        state.run += 1;
        state.missed.clear();
        state.meetings.retain(|_, meeting| meeting.complete.is_some());
        drop(state);
        self.changes.send_replace(());
    }

    /// Ends the meetings of one optimizer that are not complete: it is paused. Those of other optimizers go on.
    pub fn abandon_optimizer(&self, optimizer: OptimizerId) {
        let mut state = self.state.lock();
        *state.abandoned.entry(optimizer).or_default() += 1;
        state.meetings.retain(|occasion, meeting| occasion.optimizer != optimizer || meeting.complete.is_some());
        drop(state);
        self.changes.send_replace(());
    }

    /// Forgets the meetings of optimizers before this one, which no key updates with any more.
    pub fn forget_older(&self, than: OptimizerId) {
        let mut state = self.state.lock();
        state.meetings.retain(|occasion, _| occasion.optimizer >= than);
        state.abandoned.retain(|optimizer, _| *optimizer >= than);
    }

    /// Returns the epoch it is for, and whether the meeting is complete by it.
    fn bring(
        &self,
        occasion: &Occasion,
        key: KeyId,
        part: Part,
        expected: impl FnOnce() -> BTreeSet<KeyId>,
    ) -> ((u64, u64), bool) {
        let mut state = self.state.lock();
        let epoch = state.epoch(occasion.optimizer);
        state.missed.remove(&key);
        let new = || Meeting { expected: expected(), parts: BTreeMap::new(), complete: None };
        let meeting = state.meetings.entry(occasion.clone()).or_insert_with(new);
        if meeting.complete.is_some() {
            return (epoch, false);
        }
        meeting.parts.insert(key, part);
        if !meeting.expected.iter().all(|key| meeting.parts.contains_key(key)) {
            return (epoch, false);
        }
        let mut parts: Vec<(KeyId, Part)> = std::mem::take(&mut meeting.parts).into_iter().collect();
        parts.sort_by_key(|(key, part)| (part.identity, *key));
        meeting.complete = Some(parts.into_iter().map(|(_, part)| part).collect());
        // All who meet here have finished the rounds before.
        state.meetings.retain(|other, _| {
            (other.optimizer, &other.group) != (occasion.optimizer, &occasion.group) || other.round >= occasion.round
        });
        (epoch, true)
    }

    fn look(&self, occasion: &Occasion, epoch: (u64, u64)) -> Option<Result<Arc<[Part]>, Broken>> {
        let state = self.state.lock();
        match state.meetings.get(occasion) {
            Some(Meeting { complete: Some(parts), .. }) => Some(Ok(Arc::clone(parts))),
            _ if state.epoch(occasion.optimizer) != epoch => Some(Err(Broken::RunEnded)),
            _ => None,
        }
    }

    /// Takes a part back, unless the meeting has become complete.
    fn leave(&self, occasion: &Occasion, key: KeyId) -> Result<Arc<[Part]>, Broken> {
        let mut state = self.state.lock();
        let Some(meeting) = state.meetings.get_mut(occasion) else { return Err(Broken::RunEnded) };
        if let Some(parts) = &meeting.complete {
            return Ok(Arc::clone(parts));
        }
        let missing: BTreeSet<KeyId> =
            meeting.expected.iter().filter(|key| !meeting.parts.contains_key(key)).copied().collect();
        meeting.parts.remove(&key);
        if meeting.parts.is_empty() {
            state.meetings.remove(occasion);
        }
        state.missed.insert(key, missing.clone());
        Err(Broken::Missing(missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn occasion(round: u64) -> Occasion {
        Occasion { optimizer: 1, round, phase: 1, group: None }
    }

    fn part(identity: u64, number: f64) -> Part {
        Part { identity, numbers: vec![("norm".into(), number)] }
    }

    fn both() -> BTreeSet<KeyId> {
        BTreeSet::from([1, 2])
    }

    #[tokio::test]
    async fn all_read_the_same_parts_in_order_of_identity() {
        let rendezvous = Rendezvous::default();
        let occasion = occasion(1);
        let (first, second) = tokio::join!(
            rendezvous.meet(&occasion, 1, part(9, 1.0), both, PATIENCE),
            rendezvous.meet(&occasion, 2, part(4, 2.0), both, PATIENCE),
        );
        assert_eq!(first.as_deref(), Ok(&[part(4, 2.0), part(9, 1.0)][..]));
        assert_eq!(first, second);
    }

    #[tokio::test]
    async fn who_tries_again_reads_what_the_others_have_used() {
        let rendezvous = Rendezvous::default();
        let occasion = occasion(1);
        let (first, _) = tokio::join!(
            rendezvous.meet(&occasion, 1, part(1, 1.0), both, PATIENCE),
            rendezvous.meet(&occasion, 2, part(2, 2.0), both, PATIENCE),
        );
        assert_eq!(rendezvous.meet(&occasion, 1, part(1, 7.0), both, PATIENCE).await, first);
    }

    #[tokio::test]
    async fn who_waits_in_vain_learns_for_whom_and_takes_its_part_back() {
        let rendezvous = Rendezvous::default();
        let occasion = occasion(1);
        let outcome = rendezvous.meet(&occasion, 1, part(1, 1.0), both, Duration::ZERO).await;
        assert_eq!(outcome, Err(Broken::Missing(BTreeSet::from([2]))));
        let outcome = rendezvous.meet(&occasion, 2, part(2, 2.0), both, Duration::ZERO).await;
        assert_eq!(
            outcome,
            Err(Broken::Missing(BTreeSet::from([1]))),
            "the part of a gradient that is gone does not count"
        );
        assert!(rendezvous.state.lock().meetings.is_empty());
    }

    #[tokio::test]
    async fn while_a_key_waits_it_is_known_for_which() {
        let rendezvous = Rendezvous::default();
        let occasion = occasion(1);
        let (met, ()) = tokio::join!(rendezvous.meet(&occasion, 1, part(1, 1.0), both, PATIENCE), async {
            assert_eq!(rendezvous.missing_for(1), BTreeSet::from([2]));
            assert!(rendezvous.missing_for(2).is_empty(), "it has not come, so it does not wait");
            rendezvous.meet(&occasion, 2, part(2, 2.0), both, PATIENCE).await.expect("both are there");
        });
        met.expect("both are there");
        assert!(rendezvous.missing_for(1).is_empty());
    }

    #[tokio::test]
    async fn a_run_that_ends_ends_its_meetings() {
        let rendezvous = Rendezvous::default();
        let occasion = occasion(1);
        let (outcome, ()) = tokio::join!(rendezvous.meet(&occasion, 1, part(1, 1.0), both, PATIENCE), async {
            rendezvous.abandon();
        });
        assert_eq!(outcome, Err(Broken::RunEnded));
        assert!(rendezvous.state.lock().meetings.is_empty());
    }

    #[tokio::test]
    async fn an_abandoned_optimizer_ends_its_own_meetings_and_no_others() {
        let rendezvous = Rendezvous::default();
        let (revoked, trusted) = (occasion(1), Occasion { optimizer: 2, ..occasion(1) });
        let (ended, goes_on, ()) = tokio::join!(
            rendezvous.meet(&revoked, 1, part(1, 1.0), both, PATIENCE),
            rendezvous.meet(&trusted, 1, part(1, 1.0), both, PATIENCE),
            async {
                rendezvous.abandon_optimizer(1);
                rendezvous.meet(&trusted, 2, part(2, 2.0), both, PATIENCE).await.expect("both are there");
            },
        );
        assert_eq!(ended, Err(Broken::RunEnded));
        assert_eq!(goes_on.as_deref(), Ok(&[part(1, 1.0), part(2, 2.0)][..]));
    }

    #[tokio::test]
    async fn rounds_that_are_over_are_forgotten_and_those_of_other_groups_are_not() {
        let rendezvous = Rendezvous::default();
        let alone = || BTreeSet::from([1]);
        let of_group = Occasion { group: Some("slow".into()), ..occasion(1) };
        rendezvous.meet(&of_group, 1, part(1, 1.0), alone, PATIENCE).await.expect("nobody is missing");
        for round in 1..100 {
            rendezvous.meet(&occasion(round), 1, part(1, 1.0), alone, PATIENCE).await.expect("nobody is missing");
            assert_eq!(rendezvous.state.lock().meetings.len(), 2);
        }
        rendezvous.forget_older(2);
        assert!(rendezvous.state.lock().meetings.is_empty());
    }
}
