//! The nine cells: how many workers, how many parameters, and how many rounds show what they cost.

use std::fmt;

/// Numbers of workers.
pub const WORKERS: [u32; 3] = [1, 2, 4];

/// Numbers of parameters: small enough to ride on latency, a layer, a model.
pub const PARAMETERS: [u32; 3] = [10_000, 1_000_000, 16_000_000];

/// One of the nine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Worker processes.
    pub workers: u32,
    /// Elements of the one tensor.
    pub parameters: u32,
}

/// How long a cell is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Rounds of each side before anything counts.
    pub warm_up: u64,
    /// Blocks of each side, in turn.
    pub blocks: u64,
    /// Rounds in a block.
    pub rounds: u64,
}

impl Cell {
    /// Those with some numbers of workers and parameters, the small ones first.
    pub fn all(workers: &[u32], parameters: &[u32]) -> Vec<Self> {
        let with = |parameters| workers.iter().map(move |&workers| Self { workers, parameters });
        parameters.iter().flat_map(|&parameters| with(parameters)).collect()
    }

    /// Small tensors need many rounds, because processors wake and sleep; large ones last long enough.
    pub fn plan(self) -> Plan {
        match self.parameters {
            0..100_000 => Plan { warm_up: 40, blocks: 3, rounds: 100 },
            100_000..4_000_000 => Plan { warm_up: 6, blocks: 3, rounds: 15 },
            _ => Plan { warm_up: 2, blocks: 3, rounds: 3 },
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.workers == 1 { "" } else { "s" };
        write!(formatter, "{} worker{s}, {} parameters", self.workers, self.parameters)
    }
}

impl Plan {
    /// Rounds that each side goes through in all.
    pub fn total(self) -> u64 {
        self.warm_up + self.blocks * self.rounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_nine_and_smaller_ones_take_more_rounds() {
        let cells = Cell::all(&WORKERS, &PARAMETERS);
        assert_eq!(cells.len(), 9);
        assert!(cells.is_sorted_by_key(|cell| std::cmp::Reverse(cell.plan().total())));
        assert_eq!(cells[1].to_string(), "2 workers, 10000 parameters");
    }

    #[test]
    fn rounds_are_those_of_all_blocks() {
        assert_eq!(Plan { warm_up: 2, blocks: 3, rounds: 5 }.total(), 17);
    }
}
