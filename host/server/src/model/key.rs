//! One tensor of the model: its rounds, its published weights, and the optimizer that holds its state.

use std::sync::Arc;

use parking_lot::Mutex;
use stepbox_reduce::Format;
use stepbox_sandbox::{StepContext, TensorDescription};
use stepbox_wire::{KeyStatus, TensorType};
use tokio::sync::watch;

use super::rounds::{Push, Rounds, WrongRound};
use crate::names::{Rank, TensorId};
use crate::optimizer::{Optimizer, Planned, ScheduleId, Unplanned};
use crate::tensor::{BufferPool, Chunks, Contribution, RowLayout, Slice, Weights};

/// A tensor that workers push to and pull from.
pub(crate) struct Key {
    pub id: TensorId,
    pub name: String,
    pub tensor: TensorType,
    /// Its own cut, which most optimizers' plans take over.
    pub slices: Vec<Slice>,
    /// As optimizers are told of it, but for the group, which their deployments put it in.
    pub description: Arc<TensorDescription>,
    /// For each slice, buffers of past rounds: one for each worker at most, and one for new weights.
    pub buffers: Arc<BufferPool>,
    state: Mutex<State>,
    /// Counts what waiting pulls have to look at: new versions and failures.
    progress: watch::Sender<u64>,
    /// Who may change what the key has in the sandbox: one update, or one move to another optimizer, at a time. First
    /// come, first served. Holds where that is: nowhere before the first deployment.
    pub turn: tokio::sync::Mutex<Option<Placement>>,
}

struct State {
    rounds: Rounds<Contribution>,
    /// The weights at the version that the rounds have reached; `None` where they are in the sandbox alone.
    weights: Option<Arc<Weights>>,
    /// The version before, whose buffers serve the next one once nobody reads it any more.
    retired: Option<Arc<Weights>>,
    /// Of the place in the sandbox, for those who do not hold the key's turn.
    placed_with: Option<Arc<Optimizer>>,
}

/// A key's place in the sandbox: where its weights and state live.
#[derive(Clone)]
pub(crate) struct Placement {
    pub optimizer: Arc<Optimizer>,
    pub planned: Arc<Planned>,
    /// The version at which the state was made: steps are counted from it.
    pub state_since: u64,
    /// The learning-rate schedule that was in force when the key came.
    pub schedule_since: ScheduleId,
    /// What the optimizer was told in the last round that succeeded.
    pub last: Option<StepContext>,
}

/// What a round gives.
pub(crate) enum NewWeights {
    /// The whole tensor, in chunks.
    Chunks(Vec<Vec<u8>>),
    /// Nothing outside the sandbox: a round that touches some rows must not cost a copy of all.
    InSandbox,
}

/// What became of a push.
pub(crate) enum Pushed {
    /// It counts, and others are missing.
    Counted,
    /// It was there before.
    Repeated,
    /// It was the last one: all contributions, by rank. Whoever takes them owes a [`Key::publish`] or [`Key::fail`].
    Completed(Vec<Contribution>),
}

/// What a pull finds.
pub(crate) enum PullState {
    /// The weights are there.
    Ready,
    /// The round this worker waits for has failed and its gradient is gone.
    Failed { round: u64, reason: String },
    /// These workers' gradients for this round are not there. Nobody is missing while it is being updated.
    Waiting { round: u64, missing: Vec<Rank> },
}

impl Key {
    pub fn new(
        id: TensorId,
        description: Arc<TensorDescription>,
        tensor: TensorType,
        slices: Vec<Slice>,
        first: Arc<Weights>,
        workers: usize,
        placement: Option<Placement>,
    ) -> Self {
        let state = State {
            rounds: Rounds::new(workers),
            weights: Some(first),
            retired: None,
            placed_with: placement.as_ref().map(|placed| Arc::clone(&placed.optimizer)),
        };
        let buffers = Arc::new(BufferPool::new(&slices, workers));
        Self {
            id,
            name: description.name.clone(),
            tensor,
            slices,
            description,
            buffers,
            state: Mutex::new(state),
            progress: watch::Sender::new(0),
            turn: tokio::sync::Mutex::new(placement),
        }
    }

    /// Length of the tensor in bytes.
    pub fn bytes(&self) -> usize {
        self.slices.last().map_or(0, |slice| slice.bytes().end)
    }

    /// What an optimizer has to know of it to plan.
    pub fn unplanned(&self, shards: usize) -> Unplanned<'_> {
        Unplanned { id: self.id, description: &self.description, slices: &self.slices, shards }
    }

    /// How it divides into rows; `None` with fewer than two axes.
    pub fn row_layout(&self) -> Option<RowLayout> {
        let [rows, _, ..] = self.tensor.shape[..] else { return None };
        let row_bytes = self.bytes().checked_div(rows as usize).unwrap_or(0);
        Some(RowLayout { rows, row_bytes })
    }

    /// The optimizer in whose instances the key is: it updates the key's rounds until the key moves. `None` before the
    /// first deployment.
    pub fn placed_with(&self) -> Option<Arc<Optimizer>> {
        self.state.lock().placed_with.clone()
    }

    /// The key is somewhere else from now on. Its turn, whose content is `current`, must be held.
    pub fn place(&self, current: &mut Option<Placement>, placement: Placement) {
        self.state.lock().placed_with = Some(Arc::clone(&placement.optimizer));
        *current = Some(placement);
    }

    pub fn version(&self) -> u64 {
        self.state.lock().rounds.version()
    }

    /// The weights as they are, where they are published; `None` where they are in the sandbox alone (see
    /// [`published`](crate::round::published)).
    pub fn weights(&self) -> Option<Arc<Weights>> {
        self.state.lock().weights.clone()
    }

    /// Keeps weights that were read out of the sandbox for other pulls of the same version. The key's turn must be held.
    pub fn cache(&self, weights: Arc<Weights>) {
        self.state.lock().weights = Some(weights);
    }

    /// Its status under the optimizer that has planned for it so.
    pub fn status(&self, planned: Option<Arc<Planned>>) -> KeyStatus {
        let slices = planned.as_ref().map_or(self.slices.len(), |planned| planned.slices.len());
        KeyStatus {
            key: self.name.clone(),
            tensor: self.tensor.clone(),
            version: self.version(),
            slices: u32::try_from(slices).unwrap_or(u32::MAX),
            group: planned.map(|planned| planned.tensor.group.clone()).unwrap_or_default(),
        }
    }

    /// Told whenever a pull should look again.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// The highest round a gradient of which counts or was used.
    pub fn highest_pushed(&self) -> u64 {
        self.state.lock().rounds.highest_pushed()
    }

    /// The round that runs next, and whether it has been tried in vain.
    pub fn next_round(&self) -> (u64, bool) {
        let state = self.state.lock();
        (state.rounds.open(), state.rounds.has_failed())
    }

    /// Whether a push is a repetition, asked before its body is read.
    pub fn is_repeated(&self, rank: Rank, round: u64) -> Result<bool, WrongRound> {
        self.state.lock().rounds.is_repeated(rank, round)
    }

    /// Buffers for a gradient in this format, one for each slice.
    pub fn gradient_buffers(&self, format: Format) -> Chunks {
        self.buffers.lend(format)
    }

    /// Takes a gradient. The caller runs the round that it completes.
    pub fn push(&self, rank: Rank, round: u64, contribution: Contribution) -> Result<Pushed, WrongRound> {
        Ok(match self.state.lock().rounds.push(rank, round, contribution)? {
            Push::Counted => Pushed::Counted,
            Push::Completed(contributions) => Pushed::Completed(contributions),
            Push::Repeated(_) => Pushed::Repeated,
        })
    }

    /// Keeps the buffers of the version before the published one for gradients, unless a pull still reads them.
    pub fn keep_retired(&self) {
        let retired = self.state.lock().retired.take();
        let buffers = retired.map(Weights::into_buffers).unwrap_or_default();
        // The first weights' chunks, and those of another cut, need not be as the key's own slices are.
        if buffers.iter().map(Vec::len).eq(self.slices.iter().map(|slice| slice.bytes().len())) {
            self.buffers.keep(buffers.into_iter().enumerate());
        }
    }

    /// Publishes a round's result and opens the next round.
    pub fn publish(&self, weights: NewWeights) {
        let mut state = self.state.lock();
        state.rounds.succeed();
        let version = state.rounds.version();
        let weights = match weights {
            NewWeights::Chunks(chunks) => Some(Arc::new(Weights::new(version, chunks))),
            NewWeights::InSandbox => None,
        };
        state.retired = std::mem::replace(&mut state.weights, weights);
        if state.weights.is_none() {
            // No version to come will use its buffers.
            state.retired = None;
        }
        drop(state);
        self.progress.send_modify(|changes| *changes += 1);
    }

    /// Opens the same round again, because its update failed.
    pub fn fail(&self, reason: &str) {
        self.state.lock().rounds.fail(reason);
        self.progress.send_modify(|changes| *changes += 1);
    }

    /// The optimizer that would update the open round is paused: gradients that have come for it are discarded, unless it
    /// is being updated already, and those who wait look again.
    pub fn interrupt(&self, reason: &str) {
        drop(self.state.lock().rounds.interrupt(reason));
        self.progress.send_modify(|changes| *changes += 1);
    }

    /// Forgets the gradients of the open round: the run that they belonged to has ended.
    pub fn abandon_round(&self) {
        drop(self.state.lock().rounds.abandon());
    }

    /// What a worker, or somebody who only reads, finds that wants the weights of at least this version.
    pub fn pull_state(&self, rank: Option<Rank>, version: u64) -> PullState {
        let state = self.state.lock();
        let rounds = &state.rounds;
        if rounds.version() >= version {
            return PullState::Ready;
        }
        let round = rounds.open();
        match rank.and_then(|rank| rounds.failure_for(rank)) {
            Some(reason) => PullState::Failed { round, reason: reason.to_owned() },
            None => PullState::Waiting { round, missing: rounds.missing().collect() },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use stepbox_wire::ElementType;

    use super::*;
    use crate::tensor::{Dense, Gradient, cut};

    /// A key of two elements.
    pub(crate) fn key(name: &str, workers: usize) -> Key {
        let description = TensorDescription {
            name: name.into(),
            shape: vec![2],
            group: String::new(),
            tags: Vec::new(),
            identity: TensorDescription::identity_of(name),
        };
        let slices = cut::cut(2, &mut [0]);
        let first = Arc::new(Weights::first(&[0; 8], &slices));
        let tensor = TensorType { element: ElementType::F32, shape: vec![2] };
        Key::new(1, Arc::new(description), tensor, slices, first, workers, None)
    }

    /// A gradient for it.
    pub(crate) fn zeros() -> Contribution {
        Contribution {
            gradient: Gradient::Dense(Dense { format: Format::F32, chunks: vec![vec![0; 8]].into() }),
            largest: 0.0,
            loss: None,
        }
    }

    #[test]
    fn a_pull_waits_for_its_version_and_learns_of_a_failure() {
        let key = key("w", 2);
        assert!(matches!(key.pull_state(Some(0), 0), PullState::Ready));
        assert!(matches!(key.push(0, 1, zeros()), Ok(Pushed::Counted)));
        assert!(matches!(key.pull_state(Some(0), 1), PullState::Waiting { round: 1, missing } if missing == [1]));
        assert!(matches!(key.push(1, 1, zeros()), Ok(Pushed::Completed(_))));
        key.fail("out of fuel");
        assert!(
            matches!(key.pull_state(Some(0), 1), PullState::Failed { round: 1, reason } if reason == "out of fuel")
        );
        assert!(matches!(key.pull_state(Some(0), 0), PullState::Ready), "the weights are still there");
    }

    #[test]
    fn a_version_that_a_pull_reads_stays_as_it_is_while_the_next_is_written() {
        let key = key("w", 1);
        let round = |round, value| {
            assert!(matches!(key.push(0, round, zeros()), Ok(Pushed::Completed(_))));
            let mut chunk = key.gradient_buffers(Format::F32).detach().swap_remove(0);
            chunk.fill(value);
            key.publish(NewWeights::Chunks(vec![chunk]));
            key.keep_retired();
        };
        round(1, 1);
        let pulled = key.weights().expect("published");
        round(2, 2);
        round(3, 3);
        assert_eq!((pulled.version, &*pulled.range(0..8)), (1, &[1; 8][..]));
        assert_eq!(key.weights().expect("published").range(0..8), &[3; 8][..]);
        let lent = key.gradient_buffers(Format::F32);
        assert_eq!(lent[0], [2; 8], "version 2 is nobody's, so its buffer serves the next");
        assert_eq!(key.gradient_buffers(Format::F32)[0], [0; 8], "version 1 is still read");
    }
}
