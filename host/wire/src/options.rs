//! What a deployment sets besides the component itself, and learning-rate schedules.

use serde::{Deserialize, Serialize};

/// With what a component is deployed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeployOptions {
    /// The schedule's peak; the component's default where absent.
    pub learning_rate: Option<f64>,
    /// How the learning rate goes from round to round; constant where absent. Where both are absent and the optimizer
    /// before has the same name, its schedule goes on.
    pub schedule: Option<Schedule>,
    /// Hyperparameters by name; text as the operator wrote it (`0.9`, `true`, a choice's name). The others take their
    /// defaults.
    pub hyperparameters: Vec<(String, String)>,
    /// Groups of tensors with values of their own. A tensor belongs to the first that takes it, or to none.
    pub groups: Vec<Group>,
}

/// Tensors that are treated alike, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What the optimizer is told of a tensor in it. Unique, not empty.
    pub name: String,
    /// Which tensors it takes.
    pub tensors: TensorFilter,
    /// Hyperparameters that have another value here than elsewhere.
    pub hyperparameters: Vec<(String, String)>,
    /// The learning rate here is the schedule's times this.
    pub learning_rate_multiplier: f64,
}

/// Which tensors a group takes: those that meet every condition that is set. At least one must be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorFilter {
    /// Patterns of which the key must match one: `*` stands for any characters, `?` for one, all others for
    /// themselves. Empty for no condition.
    pub keys: Vec<String>,
    /// Tags of which the tensor must have one. Empty for no condition.
    pub tags: Vec<String>,
    /// Fewest axes.
    pub minimum_axes: Option<u32>,
    /// Most axes: 1 for biases and the scales of norms.
    pub maximum_axes: Option<u32>,
}

/// How the learning rate goes from round to round, as a share of its peak. The server's documentation has the formulas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Rounds in which the rate rises linearly to where the rest of the schedule starts; 0 and 1 for none.
    pub warmup_rounds: u64,
    /// What follows.
    pub kind: ScheduleKind,
}

/// What follows the warm-up. `rounds` counts the whole schedule, the warm-up included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// The peak, for ever.
    #[default]
    Constant,
    /// Multiplied by `gamma` after every `step_rounds` rounds.
    Step {
        /// Rounds between two drops.
        step_rounds: u64,
        /// What is kept at each.
        gamma: f64,
    },
    /// Half a cosine, from the peak to `final_ratio` of it.
    Cosine {
        /// Rounds until the end is reached.
        rounds: u64,
        /// The end, as a share of the peak.
        final_ratio: f64,
    },
    /// A straight line, from the peak to `final_ratio` of it.
    Linear {
        /// Rounds until the end is reached.
        rounds: u64,
        /// The end, as a share of the peak.
        final_ratio: f64,
    },
    /// Half a cosine up from the peak divided by `div_factor`, then one down, to the start divided by
    /// `final_div_factor`.
    OneCycle {
        /// Rounds until the end is reached.
        rounds: u64,
        /// The share of rounds in which the rate rises.
        pct_start: f64,
        /// The peak divided by the start.
        div_factor: f64,
        /// The start divided by the end.
        final_div_factor: f64,
    },
    /// In proportion to one over the square root of the round.
    InverseSquareRoot,
}

/// A schedule and when it started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleStatus {
    /// The peak.
    pub learning_rate: f64,
    /// How it goes from round to round.
    pub schedule: Schedule,
    /// Its first round: the same for all keys.
    pub from_round: u64,
}
