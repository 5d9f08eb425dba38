//! Sums of squares.

use super::{Kernel, Widen};

/// Elements whose squares are added up apart from each other: enough to keep all adders busy.
const LANES: usize = 32;

/// The sum of the squares of some elements, in an order that the number of elements alone decides.
pub(crate) struct Squares<'a> {
    pub values: &'a [f32],
}

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<W: Widen>(self, _widen: W) -> f64 {
        let mut lanes = [0.0; LANES];
        let (whole, rest) = self.values.as_chunks::<LANES>();
        for values in whole {
            add(&mut lanes, values);
        }
        add(&mut lanes, rest);
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
        }
        lanes[0]
    }
}

#[inline(always)]
fn add(lanes: &mut [f64; LANES], values: &[f32]) {
    for (lane, value) in lanes.iter_mut().zip(values) {
        // Exact: a square of 24 bits has 48.
        *lane += f64::from(*value) * f64::from(*value);
    }
}
