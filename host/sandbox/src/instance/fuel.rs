//! What a step may use: fitted to what it used in the trial run.

use crate::limits::Limits;

/// How much more than in the trial a step may use: data-dependent branches cost more on some data than on other.
const FUEL_MARGIN: u64 = 4;

/// Fuel for each step on top, so that cheap optimizers have some slack. About 0.1 ms.
const FUEL_SLACK: u64 = 100_000;

/// What a step costs in fuel: linear in a measure of its work.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct FuelModel {
    /// For blocks of elements and rows, by their elements.
    elements: Line,
    /// For matrices that are visited whole, by [`matrix_work`].
    matrices: Line,
}

/// A budget that grows with the work.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
struct Line {
    /// Budget of a call, whatever the work.
    call: u64,
    /// Budget for each 1024 units of work.
    per_1024_units: u64,
}

/// Work of methods that multiply and decompose matrices: `(r + c)(r² + c²)` for r rows and c columns, in units that one
/// instruction of a vector of 8 does.
pub(crate) fn matrix_work(rows: u64, columns: u64) -> u64 {
    let (rows, columns) = (u128::from(rows), u128::from(columns));
    let work = (rows + columns).saturating_mul(rows.pow(2).saturating_add(columns.pow(2))) / 8;
    u64::try_from(work).unwrap_or(u64::MAX)
}

impl FuelModel {
    /// What a step may use at most according to the limits.
    pub(crate) fn untried(limits: &Limits) -> Self {
        let line = Line { call: limits.call_fuel, per_1024_units: limits.fuel_per_element.saturating_mul(1024) };
        Self { elements: line, matrices: line }
    }

    /// From the fuel that steps used, each pair the `(work, fuel)` of a smaller and a larger one; where there are several,
    /// whichever is dearer. What was not tried keeps the limits' budget.
    pub(crate) fn fitted(limits: &Limits, elements: &[[(u64, u64); 2]], matrices: &[[(u64, u64); 2]]) -> Self {
        let untried = Self::untried(limits);
        let dearest = |pairs: &[[(u64, u64); 2]]| pairs.iter().map(|pair| Line::fitted(*pair)).reduce(Line::or_dearer);
        Self {
            elements: dearest(elements).unwrap_or(untried.elements),
            matrices: dearest(matrices).unwrap_or(untried.matrices),
        }
    }

    /// As numbers, to be kept: elements' budget of a call and of 1024 units, then matrices'.
    pub(crate) const fn numbers(&self) -> [u64; 4] {
        [self.elements.call, self.elements.per_1024_units, self.matrices.call, self.matrices.per_1024_units]
    }

    /// From [`FuelModel::numbers`].
    pub(crate) const fn from_numbers([call, per_1024_units, matrix_call, matrix_per_1024_units]: [u64; 4]) -> Self {
        Self {
            elements: Line { call, per_1024_units },
            matrices: Line { call: matrix_call, per_1024_units: matrix_per_1024_units },
        }
    }

    /// Budget of a step on a block of this many elements.
    pub fn budget(&self, elements: u64) -> u64 {
        self.elements.budget(elements)
    }

    /// Budget of a step on a tensor of these rows and columns that is visited whole.
    pub fn whole_budget(&self, rows: u64, columns: u64) -> u64 {
        self.matrices.budget(matrix_work(rows, columns)).max(self.elements.budget(rows.saturating_mul(columns)))
    }

    /// Fuel an element costs in blocks, as seen in the trial (a budget has four times as much).
    pub fn per_element(&self) -> f64 {
        self.elements.per_1024_units as f64 / 1024.0 / FUEL_MARGIN as f64
    }

    /// Fuel an element costs where a tensor of these rows and columns is visited whole.
    pub fn per_element_of_whole(&self, rows: u64, columns: u64) -> f64 {
        let elements = (rows * columns).max(1);
        self.whole_budget(rows, columns) as f64 / elements as f64 / FUEL_MARGIN as f64
    }
}

impl Line {
    fn fitted([(little, low), (much, high)]: [(u64, u64); 2]) -> Self {
        let per_1024_units = (high.saturating_sub(low) * 1024).div_ceil((much - little).max(1));
        let call = low.saturating_sub(per_1024_units * little / 1024);
        Self { call: call * FUEL_MARGIN + FUEL_SLACK, per_1024_units: per_1024_units * FUEL_MARGIN }
    }

    fn or_dearer(self, other: Self) -> Self {
        Self { call: self.call.max(other.call), per_1024_units: self.per_1024_units.max(other.per_1024_units) }
    }

    fn budget(&self, work: u64) -> u64 {
        let grown = u128::from(work) * u128::from(self.per_1024_units) / 1024 + 1;
        self.call.saturating_add(u64::try_from(grown).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_several_times_the_measured_cost() {
        let limits = Limits::default();
        let model = FuelModel::fitted(&limits, &[[(1000, 10_000), (11_000, 110_000)], [(10, 1), (20, 2)]], &[]);
        assert!((model.per_element() - 10.0).abs() < 0.1);
        assert!(model.budget(1000) >= 40_000 && model.budget(1000) < 40_000 + 2 * FUEL_SLACK);
        assert!(model.budget(u64::MAX) > 0);
        assert_eq!(model.whole_budget(40, 40), FuelModel::untried(&limits).whole_budget(40, 40));
    }

    #[test]
    fn a_matrixs_budget_grows_with_the_work_of_its_products() {
        let limits = Limits::default();
        let matrices = [(matrix_work(24, 40), 100_000), (matrix_work(48, 80), 800_000)];
        let model = FuelModel::fitted(&limits, &[], &[matrices]);
        let needed = 100_000 * (1024_u64 / 24).pow(3);
        assert!(model.whole_budget(1024, 1706) >= needed);
        assert!(model.whole_budget(u64::MAX, u64::MAX) == u64::MAX);
    }
}
