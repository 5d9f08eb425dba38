//! Whose gradient a failed round is attributed to.
//!
//! A gradient that is finite can still make an optimizer's output infinite: AdamW squares it, and 1e20 squared is no
//! `f32`. The optimizer is not at fault then, nor are the other workers, all of whom lose the round. So the largest
//! magnitude of every gradient is known from the pass that looks whether it is finite, and a round that fails names it.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::membership::Membership;
use crate::names::{Rank, TensorId};

/// How much larger than all other workers' a gradient must be to be an outlier. Workers of one job see batches of the same
/// data: their gradients differ by a factor of ten, not of a thousand.
const OUTLIER_RATIO: f32 = 1e3;

/// No magnitude below this is an outlier: what makes honest optimizers overflow begins at 1e19, whose square no `f32` holds.
const SUSPICIOUS_MAGNITUDE: f32 = 1e10;

/// The largest magnitude of each worker's gradient of a round, by rank.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Magnitudes(Vec<f32>);

impl Magnitudes {
    pub fn new(by_rank: impl IntoIterator<Item = f32>) -> Self {
        Self(by_rank.into_iter().collect())
    }

    fn largest(&self) -> Option<(Rank, f32)> {
        (0..).zip(self.0.iter().copied()).max_by(|(_, one), (_, other)| one.total_cmp(other))
    }

    fn largest_of_others(&self, rank: Rank) -> Option<f32> {
        let others = (0..).zip(&self.0).filter(|(other, _)| *other != rank);
        others.map(|(_, magnitude)| *magnitude).max_by(f32::total_cmp)
    }

    /// The worker whose gradient is far larger than that of all others.
    pub fn outlier(&self) -> Option<Rank> {
        let (rank, largest) = self.largest()?;
        let others = self.largest_of_others(rank)?;
        (largest >= SUSPICIOUS_MAGNITUDE && largest / OUTLIER_RATIO > others).then_some(rank)
    }

    /// What a message on a failed round says of them; `None` where there is no gradient.
    pub fn describe(&self, members: &Membership) -> Option<String> {
        let (rank, largest) = self.largest()?;
        let identity = members.identity(rank);
        let mut text = format!("the largest gradient was that of {identity} (rank {rank}), up to {largest:e}");
        if let Some(others) = self.largest_of_others(rank) {
            text += &format!("; the others were up to {others:e}");
        }
        if self.outlier().is_some() {
            text += ", so the likely cause is this worker and not the optimizer";
        }
        Some(text)
    }
}

/// Workers by whose gradients rounds fail, and how often in a row.
#[derive(Debug, Default)]
pub(crate) struct Offenders(Mutex<BTreeMap<(TensorId, Rank), u64>>);

impl Offenders {
    /// A key's round has failed by this worker's gradient.
    pub fn failed(&self, key: TensorId, rank: Rank) {
        *self.0.lock().entry((key, rank)).or_default() += 1;
    }

    /// A key's round has succeeded.
    pub fn succeeded(&self, key: TensorId) {
        let mut failures = self.0.lock();
        if !failures.is_empty() {
            failures.retain(|(other, _), _| *other != key);
        }
    }

    /// Another optimizer is deployed, which may take what the one before did not.
    pub fn forget(&self) {
        self.0.lock().clear();
    }

    /// Rounds of a key that have failed in a row by a worker's gradients.
    pub fn failures(&self, key: TensorId, rank: Rank) -> u64 {
        self.0.lock().get(&(key, rank)).copied().unwrap_or(0)
    }

    /// For the status: a line for each worker, of the key for which most of its rounds have failed.
    pub fn warnings(&self, members: &Membership) -> Vec<String> {
        let mut most: BTreeMap<Rank, u64> = BTreeMap::new();
        for ((_, rank), failures) in &*self.0.lock() {
            let known = most.entry(*rank).or_default();
            *known = (*known).max(*failures);
        }
        let line = |(rank, failures): (Rank, u64)| {
            let identity = members.identity(rank);
            format!(
                "{failures} rounds in a row have failed by gradients of {identity} (rank {rank}), far above all others"
            )
        };
        most.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Identity;

    fn members() -> Membership {
        Membership::new(["alice", "bob", "mallory"].map(|name| Identity::new(name).expect("a name")))
    }

    #[test]
    fn a_gradient_far_above_all_others_is_an_outlier_and_is_named() {
        let magnitudes = Magnitudes::new([0.25, 3.0, 1e20]);
        assert_eq!(magnitudes.outlier(), Some(2));
        let text = magnitudes.describe(&members()).expect("gradients");
        assert!(text.contains("mallory (rank 2), up to 1e20; the others were up to 3e0"), "{text}");
        assert!(text.contains("not the optimizer"), "{text}");
    }

    #[test]
    fn nobody_is_blamed_where_all_are_large_or_none_is_or_there_is_one_worker() {
        for honest in [vec![1e20, 1e19, 1e20], vec![0.0, 0.0, 5e3], vec![1e20], vec![]] {
            let magnitudes = Magnitudes::new(honest.clone());
            assert_eq!(magnitudes.outlier(), None, "{honest:?}");
            let text = magnitudes.describe(&members()).unwrap_or_default();
            assert!(!text.contains("likely cause"), "{text}");
        }
    }

    #[test]
    fn failures_count_in_a_row_by_key_and_are_forgotten_when_a_round_succeeds() {
        let offenders = Offenders::default();
        (0..3).for_each(|_| offenders.failed(7, 2));
        offenders.failed(8, 2);
        assert_eq!((offenders.failures(7, 2), offenders.failures(8, 2), offenders.failures(7, 1)), (3, 1, 0));
        let warnings = offenders.warnings(&members());
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].starts_with("3 rounds in a row have failed by gradients of mallory (rank 2)"),
            "{warnings:?}"
        );
        offenders.succeeded(7);
        assert_eq!((offenders.failures(7, 2), offenders.failures(8, 2)), (0, 1));
        offenders.forget();
        assert!(offenders.warnings(&members()).is_empty());
    }
}
