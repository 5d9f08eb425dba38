//! An axis of a chart: which values it has, where they lie, what is written beside it.

/// An axis and its unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub(super) label: String,
    pub(super) scale: Scale,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// From the smallest value to the largest.
    Logarithmic,
    /// Groups side by side.
    Names(Vec<String>),
}

/// Where values lie on an axis: 0 at its start, 1 at its end.
pub(super) struct Range {
    logarithmic: bool,
    low: f64,
    high: f64,
    /// Values that are written beside the axis.
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// From zero.
    pub fn linear(label: &str) -> Self {
        Self { label: label.into(), scale: Scale::Linear }
    }

    /// For values that span powers.
    pub fn logarithmic(label: &str) -> Self {
        Self { label: label.into(), scale: Scale::Logarithmic }
    }

    /// A place for each name.
    pub fn names(label: &str, names: Vec<String>) -> Self {
        Self { label: label.into(), scale: Scale::Names(names) }
    }

    pub(super) fn range(&self, values: impl Iterator<Item = f64> + Clone) -> Range {
        let usable = values.filter(|value| value.is_finite());
        let most = usable.clone().fold(0.0_f64, f64::max);
        match self.scale {
            Scale::Logarithmic => {
                let least = usable.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
                logarithmic(if least.is_finite() { least } else { 1.0 }, if most > 0.0 { most } else { 1.0 })
            }
            Scale::Linear | Scale::Names(_) => linear(if most > 0.0 { most } else { 1.0 }),
        }
    }
}

impl Range {
    /// Where a value lies.
    pub(super) fn place(&self, value: f64) -> f64 {
        let position = match self.logarithmic {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        position.clamp(0.0, 1.0)
    }
}

/// From zero to a round number at or above `most`, with four to six ticks.
fn linear(most: f64) -> Range {
    let rough = most / 5.0;
    let magnitude = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * magnitude).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * magnitude);
    let count = (most / step - 1e-9).ceil().max(1.0);
    let ticks = (0..=count as u32).map(|tick| f64::from(tick) * step).collect();
    Range { logarithmic: false, low: 0.0, high: count * step, ticks }
}

/// Powers of two where they are few, else powers of ten.
fn logarithmic(least: f64, most: f64) -> Range {
    let base: f64 = if is_power_of_two(least) && is_power_of_two(most) { 4.0 } else { 10.0 };
    // Powers of four may start between two of them.
    let start = if base == 4.0 { least } else { base.powf((least.log10() + 1e-9).floor()) };
    let mut ticks = vec![start];
    while let Some(last) = ticks.last().copied()
        && last < most * (1.0 - 1e-9)
    {
        ticks.push(last * base);
    }
    if ticks.len() == 1 {
        ticks.push(start * base);
    }
    Range { logarithmic: true, low: start, high: ticks[ticks.len() - 1], ticks }
}

fn is_power_of_two(value: f64) -> bool {
    value >= 2.0 && value.log2().fract() == 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_starts_at_zero_and_ends_at_a_round_number() {
        let range = Axis::linear("ns").range([1.2, 3.4].into_iter());
        assert_eq!((range.ticks[0], range.high), (0.0, 4.0));
        assert_eq!((range.place(0.0), range.place(2.0), range.place(4.0)), (0.0, 0.5, 1.0));
        assert_eq!(Axis::linear("ns").range(std::iter::empty()).high, 1.0);
    }

    #[test]
    fn a_logarithmic_axis_has_powers() {
        let sizes = Axis::logarithmic("parameters").range([16384.0, 65536.0, 1048576.0].into_iter());
        assert_eq!(sizes.ticks, [16384.0, 65536.0, 262144.0, 1048576.0]);
        assert_eq!((sizes.place(16384.0), sizes.place(1048576.0)), (0.0, 1.0));
        let times = Axis::logarithmic("ms").range([0.7, 45.0].into_iter());
        assert_eq!((times.low, times.high), (0.1, 100.0));
    }
}
