//! The point where all workers meet. No I/O, no clock.

use thiserror::Error;

use crate::names::Rank;

/// The barriers of a run: numbered from 1, passed one after the other by all workers together.
#[derive(Debug)]
pub(crate) struct Barrier {
    passed: u64,
    arrived: Vec<bool>,
}

/// A worker that counts otherwise than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "barrier {number} is not next, barrier {next} is; count barriers from the number that the registration returned"
)]
pub(crate) struct WrongBarrier {
    pub number: u64,
    pub next: u64,
}

impl Barrier {
    pub fn new(workers: usize) -> Self {
        Self { passed: 0, arrived: vec![false; workers] }
    }

    /// The last barrier that was passed, 0 for none.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// A worker is at the barrier of this number. Returns whether it is passed, now or before; repeating it is harmless.
    pub fn arrive(&mut self, rank: Rank, number: u64) -> Result<bool, WrongBarrier> {
        let next = self.passed + 1;
        if number == 0 || number > next {
            return Err(WrongBarrier { number, next });
        }
        if number < next {
            return Ok(true);
        }
        self.arrived[rank as usize] = true;
        let all = self.arrived.iter().all(|arrived| *arrived);
        if all {
            self.arrived.fill(false);
            self.passed = next;
        }
        Ok(all)
    }

    /// Who is missing at the next barrier.
    pub fn missing(&self) -> impl Iterator<Item = Rank> {
        (0..).zip(&self.arrived).filter_map(|(rank, arrived)| (!arrived).then_some(rank))
    }

    /// A new run counts from the start.
    pub fn reset(&mut self) {
        *self = Self::new(self.arrived.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_when_all_are_there_and_repeating_is_harmless() {
        let mut barrier = Barrier::new(2);
        assert_eq!(barrier.arrive(1, 1), Ok(false));
        assert_eq!(barrier.arrive(1, 1), Ok(false), "one worker twice is not two workers");
        assert_eq!(barrier.missing().collect::<Vec<_>>(), [0]);
        assert_eq!(barrier.arrive(0, 1), Ok(true));
        assert_eq!(barrier.arrive(1, 1), Ok(true), "a worker that was cut off asks again");
        assert_eq!(barrier.passed(), 1);
        assert_eq!(barrier.arrive(0, 2), Ok(false));
    }

    #[test]
    fn numbers_out_of_order_are_refused() {
        let mut barrier = Barrier::new(2);
        assert_eq!(barrier.arrive(0, 0), Err(WrongBarrier { number: 0, next: 1 }));
        assert_eq!(barrier.arrive(0, 2), Err(WrongBarrier { number: 2, next: 1 }));
    }
}
