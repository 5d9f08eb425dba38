//! Statistics that the server gathers itself, so that optimizers need not pass over memory again, and the partial sums
//! that make them independent of how a tensor is cut.
//!
//! A chunk (4096 elements, counted from the tensor's start) gives one number, computed in eight lanes of `f64`: element
//! i of the chunk goes to lane i mod 8, and the lanes are added pairwise. The guest SDK does the same for what optimizers
//! contribute.

use crate::contract::declarations::Combination;
use crate::limits::CHUNK_ELEMENTS;

const LANES: usize = 8;

/// One number for each chunk of a run that starts at a chunk.
pub(crate) fn of_chunks(combination: Combination, values: &[f32]) -> Vec<f64> {
    values.chunks(CHUNK_ELEMENTS as usize).map(|chunk| of_chunk(combination, chunk)).collect()
}

fn of_chunk(combination: Combination, chunk: &[f32]) -> f64 {
    match combination {
        Combination::Sum => in_lanes(chunk, 0.0, |sum, value| sum + value, |left, right| left + right),
        Combination::SumOfSquares => in_lanes(chunk, 0.0, |sum, value| sum + value * value, |left, right| left + right),
        Combination::AbsoluteMaximum => in_lanes(chunk, 0.0, |most, value| larger(most, value.abs()), larger),
        Combination::Maximum => in_lanes(chunk, f64::NEG_INFINITY, larger, larger),
    }
}

/// Visits a chunk in lanes, then joins the lanes pairwise.
#[inline(always)]
fn in_lanes(chunk: &[f32], start: f64, visit: impl Fn(f64, f64) -> f64, join: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [start; LANES];
    let (groups, rest) = chunk.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            lanes[lane] = visit(lanes[lane], f64::from(group[lane]));
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = visit(*lane, f64::from(*value));
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    join(join(join(a, b), join(c, d)), join(join(e, f), join(g, h)))
}

/// What contributions start from: what none at all give.
pub(crate) fn nothing(combination: Combination) -> f64 {
    match combination {
        Combination::Sum | Combination::SumOfSquares | Combination::AbsoluteMaximum => 0.0,
        Combination::Maximum => f64::NEG_INFINITY,
    }
}

/// Adds one contribution. Contributions are squares or absolute values already where that is what is combined.
pub(crate) fn join(combination: Combination, so_far: f64, contribution: f64) -> f64 {
    match combination {
        Combination::Sum | Combination::SumOfSquares => so_far + contribution,
        Combination::AbsoluteMaximum | Combination::Maximum => larger(so_far, contribution),
    }
}

/// The larger of two; the first where they are equal. (`f64::max` may return either of two zeros.)
fn larger(first: f64, second: f64) -> f64 {
    if second > first { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunks_number_is_what_the_definition_says() {
        let values: Vec<f32> = (0..4096 + 11).map(|index| (index as f32 * 0.37).sin()).collect();
        for (combination, expected) in [
            (Combination::Sum, values[4096..].iter().map(|value| f64::from(*value)).sum::<f64>()),
            (Combination::SumOfSquares, values[4096..].iter().map(|value| f64::from(*value).powi(2)).sum()),
            (
                Combination::AbsoluteMaximum,
                values[4096..].iter().fold(0.0, |most, value| f64::from(value.abs()).max(most)),
            ),
            (Combination::Maximum, values[4096..].iter().fold(-9.0, |most, value| f64::from(*value).max(most))),
        ] {
            let numbers = of_chunks(combination, &values);
            assert_eq!(numbers.len(), 2);
            assert!((numbers[1] - expected).abs() < 1e-12, "{combination:?}");
        }
    }

    #[test]
    fn lanes_are_joined_pairwise_in_a_fixed_order() {
        // In any other order the small ones are lost, or the large ones do not cancel.
        let chunk = [1e16_f32, -1e16, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(of_chunks(Combination::Sum, &chunk), [6.0]);
    }
}
