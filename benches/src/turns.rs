//! Contestants that are timed in turn, so that whatever else the machine does meets all of them.

use std::time::{Duration, Instant};

use crate::{BenchError, Row, Spread};

/// Something that is timed.
pub trait Contestant {
    /// Does as many steps and says how long they took.
    ///
    /// # Errors
    /// It does not work.
    fn steps(&mut self, count: u32) -> Result<Duration, BenchError>;
}

/// How often contestants are run.
#[derive(Debug, Clone, Copy)]
pub struct Turns {
    /// Turns before the clock counts: pages are touched, code is warm.
    pub warm_up: u32,
    /// Turns that are timed.
    pub timed: u32,
    /// Steps in a turn, so that a turn is long against the clock's resolution.
    pub steps: u32,
    /// No turn begins after this time, once there are [`Turns::FEWEST`].
    pub at_most: Duration,
}

impl Turns {
    /// The fewest timed turns that a median is taken of.
    pub const FEWEST: u32 = 3;

    /// Parameters stepped in a turn, where a step has fewer.
    const PARAMETERS_A_TURN: usize = 1 << 19;

    /// As many as a tensor of this many parameters needs.
    pub fn of(parameters: usize, quick: bool) -> Self {
        let timed = match parameters >> 20 {
            _ if quick => 5,
            0..=1 => 41,
            2..=4 => 21,
            5..=16 => 11,
            _ => 7,
        };
        Self {
            warm_up: 2,
            timed,
            steps: (Self::PARAMETERS_A_TURN / parameters.max(1)).clamp(1, 256) as u32,
            at_most: Duration::from_secs(if quick { 5 } else { 20 }),
        }
    }
}

/// Runs contestants in turn, every other time in the opposite order. Returns seconds a step: for each contestant, turn by
/// turn.
///
/// # Errors
/// One does not work.
pub fn in_turn(contestants: &mut [&mut dyn Contestant], turns: Turns) -> Result<Vec<Vec<f64>>, BenchError> {
    let mut times = vec![Vec::new(); contestants.len()];
    let since = Instant::now();
    for turn in 0..turns.warm_up + turns.timed {
        if turn >= turns.warm_up + Turns::FEWEST && since.elapsed() > turns.at_most {
            break;
        }
        for position in 0..contestants.len() {
            let index = if turn % 2 == 0 { position } else { contestants.len() - 1 - position };
            let time = contestants[index].steps(turns.steps)?.as_secs_f64() / f64::from(turns.steps);
            if turn >= turns.warm_up {
                times[index].push(time);
            }
        }
    }
    Ok(times)
}

/// The values of `times` in another unit.
pub fn scaled(times: &[f64], scale: impl Fn(f64) -> f64) -> Vec<f64> {
    times.iter().map(|time| scale(*time)).collect()
}

impl Row {
    /// A figure and its baseline from the same turns; `ratio` is the median of the quotients, turn by turn.
    pub fn of_turns(bench: &str, case: impl Into<String>, unit: &str, values: Vec<f64>) -> Self {
        Self::new(bench, case, unit, Spread::of(values))
    }

    /// With a baseline that was taken in the same turns as `values`, those that the row was made of.
    #[must_use]
    pub fn against_turns(self, what: impl Into<String>, values: &[f64], baselines: Vec<f64>) -> Self {
        let ratios = values.iter().zip(&baselines).map(|(value, baseline)| value / baseline).collect();
        self.against(what, Spread::of(baselines).median, Spread::of(ratios).median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counted {
        steps: u32,
        order: std::rc::Rc<std::cell::RefCell<Vec<u8>>>,
        name: u8,
    }

    impl Contestant for Counted {
        fn steps(&mut self, count: u32) -> Result<Duration, BenchError> {
            self.steps += count;
            self.order.borrow_mut().push(self.name);
            Ok(Duration::from_secs(u64::from(self.name) * u64::from(count)))
        }
    }

    #[test]
    fn contestants_take_turns_and_warm_up_is_not_counted() {
        let order = std::rc::Rc::default();
        let mut one = Counted { steps: 0, order: std::rc::Rc::clone(&order), name: 1 };
        let mut two = Counted { steps: 0, order: std::rc::Rc::clone(&order), name: 2 };
        let turns = Turns { warm_up: 1, timed: 3, steps: 4, at_most: Duration::ZERO };
        let times = in_turn(&mut [&mut one, &mut two], turns).unwrap();
        assert_eq!(times, [[1.0; 3], [2.0; 3]]);
        assert_eq!((one.steps, two.steps), (16, 16));
        assert_eq!(*order.borrow(), [1, 2, 2, 1, 1, 2, 2, 1]);
    }

    #[test]
    fn the_ratio_is_that_of_pairs() {
        let values = [1.0, 10.0, 4.0];
        let row = Row::of_turns("reduce", "case", "GB/s", values.to_vec()).against_turns(
            "probe",
            &values,
            vec![2.0, 10.0, 4.0],
        );
        assert_eq!((row.value, row.baseline, row.ratio), (4.0, Some(4.0), Some(1.0)));
    }
}
