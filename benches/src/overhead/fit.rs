//! What a call costs and what an element does: a line through times at several sizes.

/// `time = call + elements · each`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Seconds that a round of one slice takes, whatever its size.
    pub call: f64,
    /// Seconds for each element.
    pub each: f64,
}

impl Cost {
    /// The line through points of `(elements, seconds)` with the least squares of relative errors: with those of absolute
    /// ones the largest size alone would decide. `None` with fewer than two sizes.
    pub fn fitted(points: &[(f64, f64)]) -> Option<Self> {
        let (mut weights, mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (elements, seconds) in points {
            let weight = 1.0 / (seconds * seconds);
            weights += weight;
            x += weight * elements;
            y += weight * seconds;
            xx += weight * elements * elements;
            xy += weight * elements * seconds;
        }
        let determinant = weights * xx - x * x;
        let each = (weights * xy - x * y) / determinant;
        let call = (y - each * x) / weights;
        (determinant > 0.0 && each.is_finite() && call.is_finite()).then_some(Self { call, each })
    }
}

#[cfg(test)]
mod tests {
    use super::Cost;

    #[test]
    fn a_line_is_found_again() {
        let line = |elements: f64| (elements, 2e-6 + elements * 1.5e-9);
        let cost = Cost::fitted(&[line(1024.0), line(4096.0), line(65536.0)]).unwrap();
        assert!((cost.call - 2e-6).abs() < 1e-12 && (cost.each - 1.5e-9).abs() < 1e-15, "{cost:?}");
        assert_eq!(Cost::fitted(&[line(1024.0)]), None);
    }

    #[test]
    fn a_small_size_counts_as_much_as_a_large_one() {
        let cost = Cost::fitted(&[(1.0, 1.1), (2.0, 2.0), (1000.0, 1100.0), (2000.0, 2000.0)]).unwrap();
        assert!(cost.each > 1.0 && cost.each < 1.1, "{cost:?}");
    }
}
