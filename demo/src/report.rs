//! What a worker prints on its standard output: one JSON object a line.

use serde::{Deserialize, Serialize};

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The worker has its place in the job.
    Registered {
        /// Its rank.
        rank: u32,
        /// Workers of the job.
        workers: u32,
    },
    /// A round is done.
    Round {
        /// Which, from 1.
        round: u64,
        /// Mean loss over this worker's batch, before the round.
        loss: f64,
    },
    /// All rounds are done.
    Finished {
        /// The worker's rank.
        rank: u32,
        /// The last round.
        round: u64,
        /// Share of the held-out images that are read right.
        accuracy: f64,
        /// SHA-256 of the weights.
        weights_sha256: String,
        /// Duration of this worker's rounds.
        seconds: f64,
    },
}

/// Most [`Event::Round`] lines of a run: enough for a smooth progress display, whatever the number of rounds.
pub const ROUND_LINES: u64 = 200;

impl Event {
    /// Whether a round is told of, in a run of so many: evenly spread, and the last one always.
    pub fn tells_of(round: u64, rounds: u64) -> bool {
        round.is_multiple_of(rounds.div_ceil(ROUND_LINES).max(1)) || round == rounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_with_the_event_named() {
        let line = serde_json::to_string(&Event::Round { round: 3, loss: 0.5 }).unwrap();
        assert_eq!(line, r#"{"event":"round","round":3,"loss":0.5}"#);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), Event::Round { round: 3, loss: 0.5 });
    }

    #[test]
    fn the_number_of_lines_is_bounded() {
        for rounds in [1, 7, 200, 201, 1000, 12_345] {
            let told = (1..=rounds).filter(|round| Event::tells_of(*round, rounds)).count() as u64;
            assert!((1..=ROUND_LINES + 1).contains(&told), "{told} of {rounds}");
            assert!(Event::tells_of(rounds, rounds));
        }
    }
}
