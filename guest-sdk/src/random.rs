//! Random numbers that belong to elements: the same for any cuts of a tensor, and on every machine.
//!
//! The generator is Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
//! (SC'11): a keyed function of a counter, without state. A first application, keyed with the job's seed, turns the
//! step and the tensor's identity into a key and half a counter. The element's index divided by four and the number of
//! the stream are the other half. The index modulo four selects one of the four words of the result.

use crate::{Context, Tensor};

/// The random numbers for the elements of a tensor in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random {
    key: [u32; 2],
    nonce: u32,
    stream: u32,
}

impl Random {
    /// The random numbers for this tensor in this round. Elements are numbered from the start of the tensor:
    /// [`Block::start`](crate::Block::start) is the number of a block's first element.
    pub fn new(context: &Context, tensor: &Tensor) -> Self {
        let [step_low, step_high] = halves(context.step);
        let [identity_low, identity_high] = halves(tensor.identity);
        let [a, b, nonce, _] = philox([step_low, step_high, identity_low, identity_high], halves(context.seed));
        Self { key: [a, b], nonce, stream: 0 }
    }

    /// Another stream, independent of all others: for optimizers that need several numbers per element.
    pub fn stream(self, stream: u32) -> Self {
        Self { stream, ..self }
    }

    /// 32 random bits for element `index`.
    pub fn bits(&self, index: u64) -> u32 {
        self.four(index / 4)[(index % 4) as usize]
    }

    /// A number for element `index`, uniformly distributed in 0..1, in steps of 2^-24.
    pub fn uniform(&self, index: u64) -> f32 {
        uniform(self.bits(index))
    }

    /// A number for element `index`, normally distributed with mean 0 and variance 1, by the Box-Muller transform.
    pub fn normal(&self, index: u64) -> f32 {
        normals(self.four(index / 4))[(index % 4) as usize]
    }

    /// Fills `numbers` with [`uniform`](Self::uniform) of elements `first`, `first + 1`, ...
    pub fn fill_uniform(&self, first: u64, numbers: &mut [f32]) {
        self.fill(first, numbers, |words| words.map(uniform));
    }

    /// Fills `numbers` with [`normal`](Self::normal) of elements `first`, `first + 1`, ...
    pub fn fill_normal(&self, first: u64, numbers: &mut [f32]) {
        self.fill(first, numbers, normals);
    }

    fn fill(&self, first: u64, numbers: &mut [f32], transform: impl Fn([u32; 4]) -> [f32; 4]) {
        let mut index = first;
        let mut rest = numbers;
        while !rest.is_empty() {
            let skipped = (index % 4) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(4 - skipped));
            now.copy_from_slice(&transform(self.four(index / 4))[skipped..skipped + now.len()]);
            index += now.len() as u64;
            rest = later;
        }
    }

    fn four(&self, quarter: u64) -> [u32; 4] {
        let [low, high] = halves(quarter);
        philox([low, high, self.stream, self.nonce], self.key)
    }
}

fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

fn uniform(bits: u32) -> f32 {
    (bits >> 8) as f32 / 16_777_216.0
}

fn normals([a, b, c, d]: [u32; 4]) -> [f32; 4] {
    let pair = |radius: u32, angle: u32| {
        const STEP: f64 = 1.0 / 4_294_967_296.0;
        // Never 0, so that its logarithm is finite.
        let radius = (-2.0 * libm::log((f64::from(radius) + 1.0) * STEP)).sqrt();
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * f64::from(angle) * STEP);
        [(radius * cosine) as f32, (radius * sine) as f32]
    };
    let ([first, second], [third, fourth]) = (pair(a, b), pair(c, d));
    [first, second, third, fourth]
}

/// Philox4x32 with ten rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [low0, high0] = halves(u64::from(counter[0]) * 0xd251_1f53);
        let [low1, high1] = halves(u64::from(counter[2]) * 0xcd9e_8d57);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors that the authors publish with their library (Random123, `kat_vectors`).
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn random(step: u64, identity: u64, seed: u64) -> Random {
        let context = Context { step, seed, ..Context::default() };
        Random::new(&context, &Tensor { identity, ..Tensor::default() })
    }

    #[test]
    fn an_elements_number_does_not_depend_on_where_a_run_starts() {
        let random = random(3, 5, 7);
        let mut whole = [0.0; 50];
        random.fill_normal(0, &mut whole);
        for start in 0..9 {
            let mut part = [0.0; 13];
            random.fill_normal(start, &mut part);
            assert_eq!(part, whole[start as usize..][..13]);
        }
        assert!((0..50).all(|index| random.normal(index) == whole[index as usize]));
        let mut uniform = [0.0; 7];
        random.fill_uniform(2, &mut uniform);
        assert!((0..7).all(|index| random.uniform(index + 2) == uniform[index as usize]));
    }

    #[test]
    fn seed_step_tensor_and_stream_all_matter() {
        let all = [random(1, 1, 1), random(2, 1, 1), random(1, 2, 1), random(1, 1, 2), random(1, 1, 1).stream(1)];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other.bits(0) != one.bits(0)));
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let random = random(1, 1, 1);
        let mut numbers = vec![0.0; 100_000];
        let moments = |numbers: &[f32]| {
            let mean = |power: i32| {
                numbers.iter().map(|number| f64::from(*number).powi(power)).sum::<f64>() / numbers.len() as f64
            };
            [mean(1), mean(2), mean(4)]
        };
        let close = |found: [f64; 3], expected: [f64; 3], tolerances: [f64; 3]| {
            assert!((0..3).all(|power| (found[power] - expected[power]).abs() < tolerances[power]), "{found:?}");
        };
        // Five standard errors of 100 000 draws.
        random.fill_uniform(0, &mut numbers);
        close(moments(&numbers), [1.0 / 2.0, 1.0 / 3.0, 1.0 / 5.0], [0.0046, 0.0047, 0.0042]);
        random.fill_normal(0, &mut numbers);
        close(moments(&numbers), [0.0, 1.0, 3.0], [0.016, 0.022, 0.16]);
    }
}
