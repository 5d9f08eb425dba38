//! A set of timings and how far apart they are.

use std::time::Duration;

use serde::Serialize;

/// Median and range of repeated timings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle value.
    pub median: f64,
    /// The smallest.
    pub minimum: f64,
    /// The largest.
    pub maximum: f64,
}

impl Spread {
    /// Of some values; all zero where there are none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        match (values.first(), values.get(values.len() / 2), values.last()) {
            (Some(&minimum), Some(&median), Some(&maximum)) => Self { median, minimum, maximum },
            _ => Self { median: 0.0, minimum: 0.0, maximum: 0.0 },
        }
    }

    /// Nanoseconds for each of `units` in each duration.
    pub fn nanoseconds_per(units: usize, durations: &[Duration]) -> Self {
        Self::of(durations.iter().map(|duration| duration.as_nanos() as f64 / units as f64).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_the_middle() {
        let spread = Spread::of(vec![5.0, 1.0, 3.0]);
        assert_eq!(spread, Spread { median: 3.0, minimum: 1.0, maximum: 5.0 });
    }
}
