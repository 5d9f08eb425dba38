//! Sums, norms and maxima that do not depend on how a tensor is cut.
//!
//! Floating-point addition is not associative, so the order is part of the definition. It is the same for the
//! statistics that the server computes from parameters and gradients and for the contributions of an optimizer:
//!
//! - A tensor is a sequence of chunks of 4096 elements, counted from its start; the last chunk may be shorter. Server
//!   and SDK cut tensors only at chunks.
//! - A chunk gives one number, its *partial*. Eight lanes of `f64` start at 0 (for maxima: negative infinity). Element
//!   i of the chunk is converted to `f64`, squared in that type for sums of squares, and added to lane `i % 8`, in
//!   order. The partial is `((l0 + l1) + (l2 + l3)) + ((l4 + l5) + (l6 + l7))`.
//! - The number of a tensor is the sum of its chunks' partials, added to 0 in their order. The number of a group or
//!   model is the sum of its tensors' numbers, added to 0 in the order of the tensors' identities.
//! - The number of a row is built the same way from the segments of the row, one for each chunk that the row overlaps;
//!   elements count from the start of the segment. The number of a column adds its elements in order.

use crate::accumulator::Combination;

/// Number of elements in a chunk: the unit in which tensors are cut and contributions are made.
pub const CHUNK_ELEMENTS: usize = 4096;

const LANES: usize = 8;

/// The sum of `values`, in the order that this module defines.
pub fn sum(values: &[f32]) -> f64 {
    of_run(Combination::Sum, values)
}

/// The sum of the squares of `values`, in the order that this module defines: the square of the Euclidean norm.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    of_run(Combination::SumOfSquares, values)
}

/// The largest absolute value of `values`; 0 if there are none.
pub fn absolute_maximum(values: &[f32]) -> f64 {
    of_run(Combination::AbsoluteMaximum, values)
}

/// The statistic of a run that starts at a chunk.
pub(crate) fn of_run(combination: Combination, values: &[f32]) -> f64 {
    let partials = values.chunks(CHUNK_ELEMENTS).map(|chunk| partial(combination, chunk));
    partials.fold(combination.nothing(), |so_far, partial| combination.join(so_far, partial))
}

/// The partial of a chunk or of a row's segment.
pub(crate) fn partial(combination: Combination, values: &[f32]) -> f64 {
    // One loop for each combination, so that no loop has to branch on it.
    match combination {
        Combination::Sum => in_lanes(Combination::Sum, values),
        Combination::SumOfSquares => in_lanes(Combination::SumOfSquares, values),
        Combination::AbsoluteMaximum => in_lanes(Combination::AbsoluteMaximum, values),
        Combination::Maximum => in_lanes(Combination::Maximum, values),
    }
}

#[inline(always)]
fn in_lanes(combination: Combination, values: &[f32]) -> f64 {
    let mut lanes = [combination.nothing(); LANES];
    let mut visit = |group: &[f32; LANES]| {
        for lane in 0..LANES {
            lanes[lane] = combination.visit(lanes[lane], f64::from(group[lane]));
        }
    };
    // Four groups per iteration: metering has a cost for each iteration.
    let (turns, rest) = values.as_chunks::<{ 4 * LANES }>();
    for turn in turns {
        let (groups, _) = turn.as_chunks::<LANES>();
        visit(&groups[0]);
        visit(&groups[1]);
        visit(&groups[2]);
        visit(&groups[3]);
    }
    for group in rest.chunks(LANES) {
        for (lane, value) in lanes.iter_mut().zip(group) {
            *lane = combination.visit(*lane, f64::from(*value));
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    let join = |left, right| combination.join(left, right);
    join(join(join(a, b), join(c, d)), join(join(e, f), join(g, h)))
}

/// Combines the elements of one row's segment into the numbers of their columns.
pub(crate) fn add_to_columns(combination: Combination, columns: &mut [f64], segment: &[f32]) {
    match combination {
        Combination::Sum => each_column(Combination::Sum, columns, segment),
        Combination::SumOfSquares => each_column(Combination::SumOfSquares, columns, segment),
        Combination::AbsoluteMaximum => each_column(Combination::AbsoluteMaximum, columns, segment),
        Combination::Maximum => each_column(Combination::Maximum, columns, segment),
    }
}

#[inline(always)]
fn each_column(combination: Combination, columns: &mut [f64], segment: &[f32]) {
    for (column, value) in columns.iter_mut().zip(segment) {
        *column = combination.visit(*column, f64::from(*value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_joined_pairwise_in_a_fixed_order() {
        // In any other order the small numbers are lost, or the large ones do not cancel.
        assert_eq!(sum(&[1e16, -1e16, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), 6.0);
        // Elements 0 and 8 meet in a lane before lane 1 joins them.
        assert_eq!(sum(&[1e16, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1e16]), 1.0);
    }

    #[test]
    fn a_runs_number_is_that_of_its_chunks_in_their_order() {
        let values: Vec<f32> = (0..3 * CHUNK_ELEMENTS + 45).map(|index| (index as f32 * 0.37).sin() * 1e3).collect();
        let mut expected = 0.0;
        for chunk in values.chunks(CHUNK_ELEMENTS) {
            let mut lanes = [0.0_f64; 8];
            for (index, value) in chunk.iter().enumerate() {
                lanes[index % 8] += f64::from(*value) * f64::from(*value);
            }
            expected +=
                ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
        }
        assert_eq!(sum_of_squares(&values).to_bits(), expected.to_bits());
        let largest = values.iter().fold(0.0_f32, |most, value| value.abs().max(most));
        assert_eq!(absolute_maximum(&values), f64::from(largest));
        assert_eq!(of_run(Combination::Maximum, &[-3.0, -2.0]), -2.0);
        assert_eq!(of_run(Combination::Maximum, &[]), f64::NEG_INFINITY);
    }
}
