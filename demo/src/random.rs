//! Numbers that look random and depend on nothing but a seed and a position, so that every process draws the same ones.

/// A stream of pseudo-random numbers, each computed from its position alone: SplitMix64 (Steele, Lea and Flood, "Fast
/// Splittable Pseudorandom Number Generators", OOPSLA 2014), used as a counter-based generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    seed: u64,
}

impl Stream {
    /// The stream with this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed: mix(seed) }
    }

    /// The stream with this number under this one.
    pub fn branch(self, number: u64) -> Self {
        Self { seed: self.bits(number) }
    }

    /// 64 bits.
    pub fn bits(self, position: u64) -> u64 {
        /// 2^64 divided by the golden ratio, odd: successive positions differ in half of all bits.
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        mix(self.seed.wrapping_add(position.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// A number from -1 to 1, in steps of 2^-23.
    pub fn symmetric(self, position: u64) -> f32 {
        /// As many bits as every `f32` below 2 in magnitude has.
        const BITS: u32 = 24;
        let whole = (self.bits(position) >> (64 - BITS)) as i32 - (1 << (BITS - 1));
        whole as f32 / (1 << (BITS - 1)) as f32
    }

    /// A number below `bound`. The bias is below `bound` / 2^64.
    pub fn below(self, position: u64, bound: usize) -> usize {
        ((u128::from(self.bits(position)) * bound as u128) >> 64) as usize
    }
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_range_spread_and_repeatable() {
        let stream = Stream::new(1).branch(2);
        let numbers: Vec<f32> = (0..10_000).map(|position| stream.symmetric(position)).collect();
        assert!(numbers.iter().all(|number| (-1.0..1.0).contains(number)));
        let mean = numbers.iter().sum::<f32>() / 10_000.0;
        let variance = numbers.iter().map(|number| number * number).sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0 / 3.0).abs() < 0.02, "{mean}, {variance}");
        assert_eq!(stream.bits(77), Stream::new(1).branch(2).bits(77));
        assert_ne!(stream.bits(77), Stream::new(1).branch(3).bits(77));

        let mut counts = [0; 7];
        (0..7000).for_each(|position| counts[stream.below(position, 7)] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
