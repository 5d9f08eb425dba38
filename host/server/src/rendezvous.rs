//! Where tensors meet in a round: accumulators over a group or the whole model are complete when the last tensor has
//! given its part.
//!
//! Each key's update waits here, before the phase that reads the accumulators, until all keys that the optimizer
//! combines have brought theirs for the same round. Workers must therefore push all keys of a round before they pull any.
//!
//! Once complete, what was given stays as it is until the next round is: a key whose update failed after the meeting and
//! is tried again reads the numbers that the others have used. That no more than two rounds are kept follows: a key
//! brings its part for a round only after it has finished the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::optimizer::OptimizerId;
use crate::shard::KeyId;

/// What is met about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Occasion {
    pub optimizer: OptimizerId,
    pub round: u64,
    pub phase: u32,
    /// The group whose tensors meet; `None` for the whole model.
    pub group: Option<String>,
}

/// What a key brings: its place in the order, and a number for each accumulator by name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    pub identity: u64,
    pub numbers: Vec<(String, f64)>,
}

/// Where all keys of a job meet.
pub(crate) struct Rendezvous {
    meetings: Mutex<BTreeMap<Occasion, Meeting>>,
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Meeting {
    parts: BTreeMap<KeyId, Part>,
    complete: bool,
}

/// The keys that did not come in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing(pub Vec<KeyId>);

impl Default for Rendezvous {
    fn default() -> Self {
        Self { meetings: Mutex::default(), changes: watch::Sender::new(()) }
    }
}

impl Rendezvous {
    /// Brings a key's part and waits for those of `expected`, which include this key's. Returns all parts in order of
    /// the tensors' identities.
    pub async fn meet(
        &self,
        occasion: &Occasion,
        key: KeyId,
        part: Part,
        expected: &BTreeSet<KeyId>,
        patience: Duration,
    ) -> Result<Vec<Part>, Missing> {
        let mut changes = self.changes.subscribe();
        if self.bring(occasion, key, part, expected) {
            self.changes.send_replace(());
        }
        let arrived = async {
            loop {
                changes.mark_unchanged();
                if let Some(parts) = self.parts(occasion) {
                    return Some(parts);
                }
                changes.changed().await.ok()?;
            }
        };
        match tokio::time::timeout(patience, arrived).await {
            Ok(Some(parts)) => Ok(parts),
            Ok(None) | Err(_) => Err(self.missing(occasion, expected)),
        }
    }

    /// Returns whether the meeting is complete now.
    fn bring(&self, occasion: &Occasion, key: KeyId, part: Part, expected: &BTreeSet<KeyId>) -> bool {
        let mut meetings = self.meetings.lock();
        let meeting = meetings.entry(occasion.clone()).or_default();
        if meeting.complete {
            return false;
        }
        meeting.parts.insert(key, part);
        if !expected.iter().all(|key| meeting.parts.contains_key(key)) {
            return false;
        }
        meeting.complete = true;
        // Every key has finished the rounds before, and all optimizers before.
        let Occasion { optimizer, round, .. } = *occasion;
        meetings
            .retain(|other, _| other.optimizer >= optimizer && (other.optimizer > optimizer || other.round >= round));
        true
    }

    fn parts(&self, occasion: &Occasion) -> Option<Vec<Part>> {
        let meetings = self.meetings.lock();
        let meeting = meetings.get(occasion).filter(|meeting| meeting.complete)?;
        let mut parts: Vec<(&KeyId, &Part)> = meeting.parts.iter().collect();
        parts.sort_by_key(|(key, part)| (part.identity, **key));
        Some(parts.into_iter().map(|(_, part)| part.clone()).collect())
    }

    fn missing(&self, occasion: &Occasion, expected: &BTreeSet<KeyId>) -> Missing {
        let meetings = self.meetings.lock();
        let here = |key: &&KeyId| meetings.get(occasion).is_some_and(|meeting| meeting.parts.contains_key(*key));
        Missing(expected.iter().filter(|key| !here(key)).copied().collect())
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
        let (occasion, expected) = (occasion(1), both());
        let (first, second) = tokio::join!(
            rendezvous.meet(&occasion, 1, part(9, 1.0), &expected, PATIENCE),
            rendezvous.meet(&occasion, 2, part(4, 2.0), &expected, PATIENCE),
        );
        assert_eq!(first, Ok(vec![part(4, 2.0), part(9, 1.0)]));
        assert_eq!(first, second);
    }

    #[tokio::test]
    async fn who_tries_again_reads_what_the_others_have_used() {
        let rendezvous = Rendezvous::default();
        let (occasion, expected) = (occasion(1), both());
        let (first, _) = tokio::join!(
            rendezvous.meet(&occasion, 1, part(1, 1.0), &expected, PATIENCE),
            rendezvous.meet(&occasion, 2, part(2, 2.0), &expected, PATIENCE),
        );
        assert_eq!(rendezvous.meet(&occasion, 1, part(1, 7.0), &expected, PATIENCE).await, first);
    }

    #[tokio::test]
    async fn who_waits_in_vain_learns_for_whom() {
        let rendezvous = Rendezvous::default();
        let outcome = rendezvous.meet(&occasion(1), 1, part(1, 1.0), &both(), Duration::ZERO).await;
        assert_eq!(outcome, Err(Missing(vec![2])));
    }

    #[tokio::test]
    async fn rounds_that_are_over_are_forgotten() {
        let rendezvous = Rendezvous::default();
        let alone = BTreeSet::from([1]);
        for round in 1..100 {
            rendezvous.meet(&occasion(round), 1, part(1, 1.0), &alone, PATIENCE).await.expect("nobody is missing");
            assert_eq!(rendezvous.meetings.lock().len(), 1);
        }
    }
}
