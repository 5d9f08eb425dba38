//! What every worker does, on either side, and how it tells the driver: the weights and gradients are functions of the
//! element, the rank and the round, so that both sides can be shown to have done the same work.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// The learning rate of both sides' Adam; all other hyperparameters are both sides' defaults, which are the same.
pub const LEARNING_RATE: f64 = 1e-3;

/// A line that a worker prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The gradient of the next round is filled; a line on standard input starts the round.
    Ready,
    /// The round's new weights are there.
    Done {
        /// From the start of the push to the new weights.
        nanoseconds: u64,
    },
    /// All rounds are done and, where that was asked for, the weights are written.
    Finished,
}

impl Event {
    /// Prints it at once.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn print(self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer(&mut stdout, &self)?;
        writeln!(stdout)?;
        stdout.flush()
    }
}

/// The first weights: magnitudes from 0.5 to 1.5, either sign. `pattern` in `role.py` gives the same bits.
pub fn pattern(elements: usize) -> Vec<f32> {
    (0..elements as u32)
        .map(|index| {
            let mixed = index.wrapping_mul(0x9e37_79b9) >> 8;
            let magnitude = 0.5 + (mixed >> 1) as f32 / 8_388_608.0;
            if mixed & 1 == 1 { -magnitude } else { magnitude }
        })
        .collect()
}

/// A gradient is the pattern times this: eighths from 1 to 15/8, so that products of a rank and round are exact for both
/// sides, and no element's mean over the workers vanishes. `scale` in `role.py` is the same.
pub fn scale(rank: u32, round: u64) -> f32 {
    1.0 + ((3 * round + 5 * u64::from(rank)) % 8) as f32 / 8.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_the_other_side_prints() {
        let read = |line| serde_json::from_str::<Event>(line).unwrap();
        assert_eq!(read(r#"{"event": "ready"}"#), Event::Ready);
        assert_eq!(read(r#"{"event": "done", "nanoseconds": 12}"#), Event::Done { nanoseconds: 12 });
        assert_eq!(read(r#"{"event": "finished"}"#), Event::Finished);
    }

    #[test]
    fn no_weight_and_no_gradient_is_near_zero() {
        let weights = pattern(10_000);
        assert!(weights.iter().all(|weight| (0.5..=1.5).contains(&weight.abs())));
        let negative = weights.iter().filter(|weight| **weight < 0.0).count();
        assert!((3000..7000).contains(&negative), "{negative} of 10000 are negative");
        assert!((0..100).all(|round| (0..4).all(|rank| (1.0..=1.875).contains(&scale(rank, round)))));
    }

    #[test]
    fn workers_and_rounds_differ() {
        assert!((1..8).all(|round| scale(0, round) != scale(0, 0)));
        assert!((1..4).all(|rank| scale(rank, 0) != scale(0, 0)));
    }
}
