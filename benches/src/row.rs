//! What a measurement says, in the form that scripts read.

use serde::{Deserialize, Serialize};

/// One measured figure, with its baseline from the same run and its goal where there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which benchmark: `overhead`, `reduce`, `wire`, `rounds`, `admission`, `abuse`.
    pub bench: String,
    /// What was measured, such as `adamw, mean of 4, 16777216 parameters, fuel and epochs`.
    pub case: String,
    /// The median, in `unit`.
    pub value: f64,
    /// The smallest and the largest value of the repeated runs, in `unit`.
    pub spread: [f64; 2],
    /// Such as `ns/parameter`, `GB/s`, `ms`.
    pub unit: String,
    /// The baseline's median in the same unit, taken in turn with the value; `None` where there is none.
    pub baseline: Option<f64>,
    /// What the baseline is, such as `native AVX-512, fused, in place`; empty where there is none.
    pub against: String,
    /// The median of the ratios of value and baseline, pair by pair.
    pub ratio: Option<f64>,
    /// What is to be reached, and of which figure.
    pub goal: Option<Goal>,
    /// Whether it was reached; `None` where there is no goal.
    pub met: Option<bool>,
}

/// A bound that the project has set itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The ratio is at most this.
    RatioAtMost(f64),
    /// The ratio is at least this.
    RatioAtLeast(f64),
    /// The value is at most this, in the row's unit.
    ValueAtMost(f64),
}

impl Row {
    /// A figure without baseline and goal.
    pub fn new(bench: &str, case: impl Into<String>, unit: &str, value: crate::Spread) -> Self {
        Self {
            bench: bench.into(),
            case: case.into(),
            value: value.median,
            spread: [value.minimum, value.maximum],
            unit: unit.into(),
            baseline: None,
            against: String::new(),
            ratio: None,
            goal: None,
            met: None,
        }
    }

    /// With its baseline: the median of that, and of the ratios pair by pair.
    #[must_use]
    pub fn against(self, what: impl Into<String>, baseline: f64, ratio: f64) -> Self {
        Self { against: what.into(), baseline: Some(baseline), ratio: Some(ratio), ..self }
    }

    /// With a goal, which is met or not.
    #[must_use]
    pub fn goal(self, goal: Goal) -> Self {
        let met = match goal {
            Goal::RatioAtMost(bound) => self.ratio.map(|ratio| ratio <= bound),
            Goal::RatioAtLeast(bound) => self.ratio.map(|ratio| ratio >= bound),
            Goal::ValueAtMost(bound) => Some(self.value <= bound),
        };
        Self { goal: Some(goal), met, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spread;

    #[test]
    fn a_goal_is_met_or_not_by_the_figure_it_names() {
        let row = || Row::new("reduce", "case", "GB/s", Spread::of(vec![8.0])).against("probe", 10.0, 0.8);
        assert_eq!(row().goal(Goal::RatioAtLeast(0.85)).met, Some(false));
        assert_eq!(row().goal(Goal::RatioAtMost(0.85)).met, Some(true));
        assert_eq!(row().goal(Goal::ValueAtMost(8.0)).met, Some(true));
        assert_eq!(row().met, None);
    }
}
