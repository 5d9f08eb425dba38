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

use crate::names::{OptimizerId, TensorId};

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
    /// Counts how often an optimizer's meetings have been abandoned, where they have.
    abandoned: BTreeMap<OptimizerId, u64>,
}

impl State {
    /// Changes whenever the meetings of this optimizer that are not complete come to nothing.
    fn generation(&self, optimizer: OptimizerId) -> u64 {
        self.run + self.abandoned.get(&optimizer).copied().unwrap_or(0)
    }
}

struct Meeting {
    /// As the first to come saw it.
    expected: BTreeSet<TensorId>,
    parts: BTreeMap<TensorId, Part>,
    /// All parts in order of the tensors' identities, once all are there.
    complete: Option<Arc<[Part]>>,
}

impl Meeting {
    fn missing(&self) -> Vec<TensorId> {
        self.expected.iter().filter(|key| !self.parts.contains_key(key)).copied().collect()
    }
}

/// Why a meeting did not come about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MeetingFailure {
    /// These keys did not come in time.
    Missing(Vec<TensorId>),
    /// The run that it belonged to has ended, or its optimizer is paused.
    Abandoned,
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
        key: TensorId,
        part: Part,
        expected: impl FnOnce() -> BTreeSet<TensorId>,
        patience: Duration,
    ) -> Result<Arc<[Part]>, MeetingFailure> {
        let mut changes = self.changes.subscribe();
        let (run, complete) = self.bring(occasion, key, part, expected);
        if complete {
            self.changes.send_replace(());
        }
        let arrived = async {
            loop {
                changes.mark_unchanged();
                if let Some(outcome) = self.look(occasion, run) {
                    return outcome;
                }
                if changes.changed().await.is_err() {
                    return Err(MeetingFailure::Abandoned);
                }
            }
        };
        match tokio::time::timeout(patience, arrived).await {
            Ok(outcome) => outcome,
            Err(_) => self.leave(occasion, key),
        }
    }

    /// Ends all meetings that are not complete: the run that they belonged to has ended.
    pub fn abandon(&self) {
        let mut state = self.state.lock();
        state.run += 1;
        state.meetings.retain(|_, meeting| meeting.complete.is_some());
        drop(state);
        self.changes.send_replace(());
    }

    /// Ends the meetings of these optimizers that are not complete: no further round runs in them. Those of others go on.
    pub fn abandon_those_of(&self, optimizers: &BTreeSet<OptimizerId>) {
        let mut state = self.state.lock();
        for optimizer in optimizers {
            *state.abandoned.entry(*optimizer).or_default() += 1;
        }
        state
            .meetings
            .retain(|occasion, meeting| meeting.complete.is_some() || !optimizers.contains(&occasion.optimizer));
        drop(state);
        self.changes.send_replace(());
    }

    /// The keys that this key's update waits for, where it waits here.
    pub fn waits_for(&self, key: TensorId) -> Option<Vec<TensorId>> {
        let state = self.state.lock();
        let waits = |meeting: &&Meeting| meeting.complete.is_none() && meeting.parts.contains_key(&key);
        let meeting = state.meetings.values().find(waits)?;
        Some(meeting.missing())
    }

    /// Forgets the meetings of optimizers before this one, which no key updates with any more.
    pub fn forget_older(&self, than: OptimizerId) {
        let mut state = self.state.lock();
        state.meetings.retain(|occasion, _| occasion.optimizer >= than);
        state.abandoned.retain(|optimizer, _| *optimizer >= than);
    }

    /// Returns the generation it is of, and whether the meeting is complete by it.
    fn bring(
        &self,
        occasion: &Occasion,
        key: TensorId,
        part: Part,
        expected: impl FnOnce() -> BTreeSet<TensorId>,
    ) -> (u64, bool) {
        let mut state = self.state.lock();
        let run = state.generation(occasion.optimizer);
        let new = || Meeting { expected: expected(), parts: BTreeMap::new(), complete: None };
        let meeting = state.meetings.entry(occasion.clone()).or_insert_with(new);
        if meeting.complete.is_some() {
            return (run, false);
        }
        meeting.parts.insert(key, part);
        if !meeting.expected.iter().all(|key| meeting.parts.contains_key(key)) {
            return (run, false);
        }
        let mut parts: Vec<(TensorId, Part)> = std::mem::take(&mut meeting.parts).into_iter().collect();
        parts.sort_by_key(|(key, part)| (part.identity, *key));
        meeting.complete = Some(parts.into_iter().map(|(_, part)| part).collect());
        // All who meet here have finished the rounds before.
        state.meetings.retain(|other, _| {
            (other.optimizer, &other.group) != (occasion.optimizer, &occasion.group) || other.round >= occasion.round
        });
        (run, true)
    }

    fn look(&self, occasion: &Occasion, run: u64) -> Option<Result<Arc<[Part]>, MeetingFailure>> {
        let state = self.state.lock();
        match state.meetings.get(occasion) {
            Some(Meeting { complete: Some(parts), .. }) => Some(Ok(Arc::clone(parts))),
            _ if state.generation(occasion.optimizer) != run => Some(Err(MeetingFailure::Abandoned)),
            _ => None,
        }
    }

    /// Takes a part back, unless the meeting has become complete.
    fn leave(&self, occasion: &Occasion, key: TensorId) -> Result<Arc<[Part]>, MeetingFailure> {
        let mut state = self.state.lock();
        let Some(meeting) = state.meetings.get_mut(occasion) else { return Err(MeetingFailure::Abandoned) };
        if let Some(parts) = &meeting.complete {
            return Ok(Arc::clone(parts));
        }
        let missing = meeting.missing();
        meeting.parts.remove(&key);
        if meeting.parts.is_empty() {
            state.meetings.remove(occasion);
        }
        Err(MeetingFailure::Missing(missing))
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

    fn both() -> BTreeSet<TensorId> {
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
        assert_eq!(outcome, Err(MeetingFailure::Missing(vec![2])));
        let outcome = rendezvous.meet(&occasion, 2, part(2, 2.0), both, Duration::ZERO).await;
        assert_eq!(
            outcome,
            Err(MeetingFailure::Missing(vec![1])),
            "the part of a gradient that is gone does not count"
        );
        assert!(rendezvous.state.lock().meetings.is_empty());
    }

    #[tokio::test]
    async fn a_run_that_ends_ends_its_meetings() {
        let rendezvous = Rendezvous::default();
        let occasion = occasion(1);
        let (outcome, ()) = tokio::join!(rendezvous.meet(&occasion, 1, part(1, 1.0), both, PATIENCE), async {
            rendezvous.abandon();
        });
        assert_eq!(outcome, Err(MeetingFailure::Abandoned));
        assert!(rendezvous.state.lock().meetings.is_empty());
    }

    #[tokio::test]
    async fn a_paused_optimizer_ends_its_own_meetings_and_no_others() {
        let rendezvous = Rendezvous::default();
        let (paused, trusted) = (occasion(1), Occasion { optimizer: 2, ..occasion(1) });
        let (of_paused, of_trusted, ()) = tokio::join!(
            rendezvous.meet(&paused, 1, part(1, 1.0), both, PATIENCE),
            rendezvous.meet(&trusted, 3, part(3, 3.0), || BTreeSet::from([3, 4]), PATIENCE),
            async {
                assert_eq!((rendezvous.waits_for(1), rendezvous.waits_for(2)), (Some(vec![2]), None));
                rendezvous.abandon_those_of(&BTreeSet::from([1]));
                assert_eq!(rendezvous.waits_for(3), Some(vec![4]));
                let last = rendezvous.meet(&trusted, 4, part(4, 4.0), || unreachable!(), PATIENCE).await;
                assert_eq!(last.as_deref(), Ok(&[part(3, 3.0), part(4, 4.0)][..]));
            }
        );
        assert_eq!(of_paused, Err(MeetingFailure::Abandoned));
        assert_eq!(of_trusted.as_deref(), Ok(&[part(3, 3.0), part(4, 4.0)][..]));
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
