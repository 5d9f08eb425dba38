//! Both sides of a cell, in turn.

use std::time::Duration;

use anyhow::{Result, ensure};
use stepbox_benches::Spread;

use crate::cell::Cell;
use crate::cluster::Block;
use crate::work::{LEARNING_RATE, pattern};
use crate::{MxNet, Stepbox};

/// What a cell has shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Stepbox.
    pub stepbox: Side,
    /// MXNet.
    pub mxnet: Side,
    /// The largest difference between weights of the two sides after the same rounds.
    pub difference: f32,
}

/// One side's blocks, in the order in which they were taken, and its memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Side {
    /// Milliseconds of wall time that a round took: each block's median.
    pub wall: Vec<f64>,
    /// Milliseconds of the server's processor time that a round took: each block's mean.
    pub server: Vec<f64>,
    /// The server's peak of resident memory in MB, in each repetition.
    pub peak_memory: Vec<f64>,
}

/// A figure of both sides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// Stepbox's.
    pub value: Spread,
    /// MXNet's.
    pub baseline: Spread,
    /// Stepbox's by MXNet's, pair by pair.
    pub ratio: Spread,
}

/// Starts both sides anew in each repetition, and lets them go through blocks of rounds in turn, each idle while the
/// other works.
///
/// # Errors
/// A process fails, or a side did not train.
pub async fn measure(cell: Cell, repetitions: u32, mxnet: &MxNet, stepbox: &Stepbox) -> Result<Figures> {
    let mut figures = Figures { stepbox: Side::default(), mxnet: Side::default(), difference: 0.0 };
    for _ in 0..repetitions {
        figures.add(cell, mxnet, stepbox).await?;
    }
    Ok(figures)
}

impl Figures {
    async fn add(&mut self, cell: Cell, mxnet: &MxNet, stepbox: &Stepbox) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("stepbox-peer-").tempdir()?;
        let (Cell { workers, parameters }, plan) = (cell, cell.plan());
        let mut theirs = mxnet.start(workers, parameters, plan.total(), folder.path()).await?;
        let mut ours = stepbox.start(workers, parameters, plan.total(), folder.path()).await?;
        theirs.rounds(plan.warm_up).await?;
        ours.rounds(plan.warm_up).await?;
        for block in 0..plan.blocks {
            // There and back, so that a drift of the machine's speed meets both alike.
            if block % 2 == 0 {
                self.mxnet.add(&theirs.rounds(plan.rounds).await?);
                self.stepbox.add(&ours.rounds(plan.rounds).await?);
            } else {
                self.stepbox.add(&ours.rounds(plan.rounds).await?);
                self.mxnet.add(&theirs.rounds(plan.rounds).await?);
            }
        }
        self.mxnet.peak_memory.push(theirs.server_peak_memory()? as f64 / 1e6);
        self.stepbox.peak_memory.push(ours.server_peak_memory()? as f64 / 1e6);
        let (ours, theirs) = (ours.finish().await?, theirs.finish().await?);
        self.difference = self.difference.max(difference(&ours, &theirs, parameters as usize, plan.total())?);
        Ok(())
    }
}

impl Side {
    fn add(&mut self, block: &Block) {
        let milliseconds = |duration: &Duration| duration.as_secs_f64() * 1e3;
        self.wall.push(Spread::of(block.rounds.iter().map(milliseconds).collect()).median);
        self.server.push(milliseconds(&block.server) / block.rounds.len() as f64);
    }
}

impl Compared {
    /// Of values and baselines that were taken in turn.
    pub fn of(values: &[f64], baselines: &[f64]) -> Self {
        let ratios = values.iter().zip(baselines).map(|(value, baseline)| value / baseline).collect();
        Self { value: Spread::of(values.to_vec()), baseline: Spread::of(baselines.to_vec()), ratio: Spread::of(ratios) }
    }
}

impl Figures {
    /// Wall time of a round in milliseconds.
    pub fn wall(&self) -> Compared {
        Compared::of(&self.stepbox.wall, &self.mxnet.wall)
    }

    /// Processor time of the server in a round in milliseconds.
    pub fn server(&self) -> Compared {
        Compared::of(&self.stepbox.server, &self.mxnet.server)
    }

    /// Peak of the server's resident memory in MB.
    pub fn memory(&self) -> Compared {
        Compared::of(&self.stepbox.peak_memory, &self.mxnet.peak_memory)
    }
}

/// The largest difference of weights, once it is clear that both are weights after all rounds.
fn difference(ours: &[f32], theirs: &[f32], parameters: usize, rounds: u64) -> Result<f32> {
    for (side, weights) in [("Stepbox", ours), ("MXNet", theirs)] {
        ensure!(weights.len() == parameters, "{side} ended with {} weights of {parameters}", weights.len());
        // No gradient changes its sign or grows by more than 15/8, so Adam moves each weight by about its rate.
        let wanted = rounds as f32 * LEARNING_RATE as f32;
        let moved = |(first, last): (f32, &f32)| (0.5..1.5).contains(&((first - last).abs() / wanted));
        let stayed = pattern(parameters).into_iter().zip(weights).position(|pair| !moved(pair));
        ensure!(stayed.is_none(), "{side}'s weight {stayed:?} did not move as {rounds} rounds of Adam move it");
    }
    Ok(ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(milliseconds: [u64; 3], server: u64) -> Block {
        Block { rounds: milliseconds.map(Duration::from_millis).to_vec(), server: Duration::from_millis(server) }
    }

    #[test]
    fn a_block_has_a_median_round_and_a_mean_of_server_time() {
        let mut side = Side::default();
        side.add(&block([9, 1, 2], 6));
        side.add(&block([4, 4, 5], 3));
        assert_eq!(side, Side { wall: vec![2.0, 4.0], server: vec![2.0, 1.0], peak_memory: vec![] });
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // The machine became twice as slow in the middle; that is no difference between the sides.
        let compared = Compared::of(&[1.0, 2.0, 2.0], &[4.0, 8.0, 8.0]);
        assert_eq!(compared.ratio, Spread { median: 0.25, minimum: 0.25, maximum: 0.25 });
        assert_eq!((compared.value.median, compared.baseline.median), (2.0, 8.0));
    }

    #[test]
    fn weights_that_did_not_move_prove_nothing() {
        let first = pattern(8);
        let moved = |by: f32| first.iter().map(|value| value - by * value.signum()).collect::<Vec<f32>>();
        let close = difference(&moved(0.1), &moved(0.1001), 8, 100).unwrap();
        assert!((close - 1e-4).abs() < 1e-6, "{close}");
        assert!(difference(&first, &first, 8, 100).is_err(), "nobody did anything");
        assert!(difference(&moved(0.1), &moved(0.2), 8, 100).is_err(), "one did twice as much");
        assert!(difference(&moved(0.1)[..7], &moved(0.1), 8, 100).is_err(), "one is missing");
    }
}
