//! Many events of a kind become one line, so that nobody can fill the disk with refusals.
//!
//! The first few of a kind have a line each. The others in the same stretch of time are counted, and when it is over
//! one line says how many there were, with the last of them as an example. Events of somebody who has no identity are
//! of one kind wherever they come from: addresses cost an attacker nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::line::Repeated;
use crate::record::{Outcome, Record};

/// Events of a kind that have a line each within [`FOLD_WINDOW`]; the others share one.
pub const FOLD_BURST: u64 = 8;

/// How long events of a kind are gathered into one line.
pub const FOLD_WINDOW: Duration = Duration::from_secs(10);

/// Kinds that are told apart at a time; events of further ones lose their identity in the count.
pub const MAX_KINDS: usize = 1024;

/// Subjects that a line for many events names.
pub const MAX_FOLDED_SUBJECTS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    action: String,
    outcome: Outcome,
    code: String,
    identity: String,
}

/// A kind's present stretch of time.
#[derive(Debug)]
struct Stretch {
    ends: Instant,
    seen: u64,
    folded: Option<(Record, Repeated)>,
}

#[derive(Debug, Default)]
pub(crate) struct Folds {
    kinds: HashMap<Kind, Stretch>,
}

impl Folds {
    /// Gives the record back where it gets a line of its own.
    pub(crate) fn take(&mut self, record: Record, now: Instant) -> Option<Record> {
        if !record.folds {
            return Some(record);
        }
        let mut kind = Kind {
            action: record.action.clone(),
            outcome: record.outcome,
            code: record.code.clone(),
            identity: record.identity.clone(),
        };
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&kind) {
            kind.identity.clear();
        }
        let stretch =
            self.kinds.entry(kind).or_insert_with(|| Stretch { ends: now + FOLD_WINDOW, seen: 0, folded: None });
        stretch.seen += 1;
        if stretch.seen <= FOLD_BURST {
            return Some(record);
        }
        let start = || (record.clone(), Repeated { times: 0, since: record.time, subjects: Vec::new() });
        let (last, repeated) = stretch.folded.get_or_insert_with(start);
        repeated.times += 1;
        let is_new = !record.subject.is_empty() && !repeated.subjects.contains(&record.subject);
        if is_new && repeated.subjects.len() < MAX_FOLDED_SUBJECTS {
            repeated.subjects.push(crate::record::harmless(&record.subject, MAX_FOLDED_SUBJECT_BYTES));
        }
        *last = record;
        None
    }

    /// What has been gathered in stretches that are over, or in all.
    pub(crate) fn over(&mut self, now: Option<Instant>) -> Vec<(Record, Repeated)> {
        let ended = |stretch: &Stretch| now.is_none_or(|now| stretch.ends <= now);
        self.kinds.extract_if(|_, stretch| ended(stretch)).filter_map(|(_, stretch)| stretch.folded).collect()
    }

    /// When the next stretch is over.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.kinds.values().map(|stretch| stretch.ends).min()
    }
}

/// A subject in a list of them: as long as a key may be.
const MAX_FOLDED_SUBJECT_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(identity: &str, subject: &str) -> Record {
        Record {
            identity: identity.into(),
            subject: subject.into(),
            folds: true,
            ..Record::new("request", Outcome::Refused)
        }
    }

    #[test]
    fn a_flood_becomes_a_line_that_counts_it_and_others_keep_their_lines() {
        let (mut folds, now) = (Folds::default(), Instant::now());
        let written = (0..1234).filter(|_| folds.take(refusal("mallory", "key"), now).is_some()).count();
        assert_eq!(written as u64, FOLD_BURST);
        assert!(folds.take(refusal("alice", "key"), now).is_some());
        assert!(folds.take(Record::new("deploy", Outcome::Allowed), now).is_some());
        assert_eq!(folds.over(Some(now)).len(), 0);

        let over = folds.over(Some(now + FOLD_WINDOW));
        let [(record, repeated)] = over.as_slice() else { panic!("{over:?}") };
        assert_eq!((record.identity.as_str(), repeated.times), ("mallory", 1234 - FOLD_BURST));
        assert_eq!(repeated.subjects, ["key"]);
        assert!(folds.take(refusal("mallory", "key"), now + FOLD_WINDOW).is_some(), "a new stretch begins");
    }

    #[test]
    fn neither_many_kinds_nor_many_subjects_take_memory_without_end() {
        let (mut folds, now) = (Folds::default(), Instant::now());
        let written = (0..10 * MAX_KINDS).filter(|n| folds.take(refusal(&n.to_string(), "x"), now).is_some()).count();
        assert_eq!((folds.kinds.len(), written as u64), (MAX_KINDS + 1, MAX_KINDS as u64 + FOLD_BURST));
        let times: u64 = folds.over(None).iter().map(|(_, repeated)| repeated.times).sum();
        assert_eq!(times, (9 * MAX_KINDS) as u64 - FOLD_BURST);

        (0..1000).for_each(|n| drop(folds.take(refusal("a", &n.to_string()), now)));
        assert_eq!(folds.over(None)[0].1.subjects.len(), MAX_FOLDED_SUBJECTS);
    }
}
