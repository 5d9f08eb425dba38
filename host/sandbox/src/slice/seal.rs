//! Seals: a keyed fingerprint of bytes in a component's memory, by which the server sees that they are what it left there.
//!
//! Each run of bytes gets 64 bits of a universal hash whose key the component cannot know: it lies outside its memory,
//! and nothing that depends on it ever goes there. Whoever changes bytes without the key goes unnoticed with a probability
//! of at most 2⁻³¹ (see [`nh`] and [`along`]). A try that is noticed ends the instance, and everybody is told whose it was.
//! The key stays for as long as its pool, so that whoever may go on trying, in the instances that follow, has 2⁻³¹ more
//! with each: a try that fails says no more of the key than that it is not one of those few that would have let it pass.
//!
//! Looking at bytes is what costs, so that whatever else is to be done with them is done in the same pass ([`Visit`]):
//! copying them, and making sure that they are finite numbers.

use pulp::{Arch, Simd, WithSimd};

use crate::error::SandboxError;

/// Bytes that are hashed with the key once over. What is visited fits the first-level cache beside the key.
const BLOCK: usize = 4096;

const WORDS: usize = BLOCK / size_of::<u64>();

/// 2⁶¹ - 1, a prime.
const PRIME: u64 = (1 << 61) - 1;

const LOW: u64 = u32::MAX as u64;

/// The bits of an `f32` that are all set in NaN and infinities.
const EXPONENT: u32 = 0x7f80_0000;

/// What seals are made with, and nobody else may know.
pub(crate) struct SealKey {
    words: Box<[u64; WORDS]>,
    /// Where polynomials over blocks are evaluated, below [`PRIME`].
    point: u64,
    another: u64,
}

impl SealKey {
    /// From the operating system's generator.
    pub(crate) fn random() -> Result<Self, SandboxError> {
        let mut bytes = vec![0; BLOCK + 2 * size_of::<u64>()];
        getrandom::fill(&mut bytes)
            .map_err(|error| SandboxError::Engine(format!("the system gives no random numbers: {error}")))?;
        let mut words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut key = Self { words: Box::new([0; WORDS]), point: 0, another: 0 };
        key.words.iter_mut().zip(&mut words).for_each(|(place, word)| *place = word);
        key.point = words.next().unwrap_or_default() % PRIME;
        key.another = words.next().unwrap_or_default();
        Ok(key)
    }

    /// A number that came with the key and has nothing to do with seals.
    pub(crate) fn another_secret(&self) -> u64 {
        self.another
    }

    /// The seal of a run of bytes.
    #[cfg(test)]
    pub(crate) fn seal(&self, bytes: &[u8]) -> u64 {
        let mut seals = [0];
        let visit = Visit {
            key: self,
            bytes,
            unit_bytes: bytes.len().max(1),
            look: false,
            copy: CopyTo::Nowhere,
            seals: Seals::Put { seals: &mut seals, stride: 1 },
        };
        visit.run();
        seals[0]
    }
}

/// Where bytes are copied to on the way.
pub(crate) enum CopyTo<'a> {
    Nowhere,
    /// Over these, which are as many.
    Over(&'a mut [u8]),
    /// Behind these.
    Behind(&'a mut Vec<u8>),
}

/// What is done with the seals of the units, of which each `stride`th is one of these bytes'.
pub(crate) enum Seals<'a> {
    Put { seals: &'a mut [u64], stride: usize },
    Compare { seals: &'a [u64], stride: usize },
}

/// One pass over bytes. Each unit of them has a seal; the last may be shorter.
pub(crate) struct Visit<'a> {
    pub(crate) key: &'a SealKey,
    pub(crate) bytes: &'a [u8],
    pub(crate) unit_bytes: usize,
    /// Whether they are `f32`s that should be finite.
    pub(crate) look: bool,
    pub(crate) copy: CopyTo<'a>,
    pub(crate) seals: Seals<'a>,
}

/// What was found on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visited {
    /// The first unit whose seal is another. The visit ends behind it.
    pub(crate) broken: Option<usize>,
    /// Whether all numbers are finite, as far as they were looked at.
    pub(crate) finite: bool,
}

impl Visit<'_> {
    pub(crate) fn run(self) -> Visited {
        Arch::new().dispatch(self)
    }
}

impl WithSimd for Visit<'_> {
    type Output = Visited;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Visited {
        let Self { key, bytes, unit_bytes, look, mut copy, mut seals } = self;
        let mut finite = true;
        for (number, unit) in bytes.chunks(unit_bytes.max(1)).enumerate() {
            let mut seal = 0;
            for (position, block) in unit.chunks(BLOCK).enumerate() {
                match &mut copy {
                    CopyTo::Nowhere => {}
                    CopyTo::Over(target) => {
                        let start = number * unit_bytes + position * BLOCK;
                        target[start..start + block.len()].copy_from_slice(block);
                    }
                    CopyTo::Behind(target) => target.extend_from_slice(block),
                }
                if look {
                    finite &= all_finite(block);
                }
                seal = along(key.point, seal, nh(&key.words, block));
            }
            match &mut seals {
                Seals::Put { seals, stride } => seals[number * *stride] = seal,
                Seals::Compare { seals, stride } if seals[number * *stride] == seal => {}
                Seals::Compare { .. } => return Visited { broken: Some(number), finite },
            }
        }
        Visited { broken: None, finite }
    }
}

/// NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, CRYPTO 1999) over 64-bit words `m` with as many words of key `k`:
/// the sum of low(m + k) · high(m + k), where low and high are 32 bits each and all else is modulo 2⁶⁴.
///
/// Two blocks of the same length that differ have any given difference of sums with a probability of at most 2⁻³². Take
/// a word that differs, by d, and all of the key but its word as given; t = m + k is then uniform. If the lower half of
/// d is not 0, the lower halves x ≠ x' of t and t + d are given by that of t, and at most one value y of the upper half
/// has x · y - x' · ((y + e) mod 2³²) at what is wanted, e being the upper half of d and the carry: that is UMAC's
/// lemma. If it is 0, both have the lower half x, their upper halves differ by a constant other than 0 once y is given,
/// and at most one x gives the wanted product.
#[inline(always)]
fn nh(key: &[u64; WORDS], block: &[u8]) -> u64 {
    let (words, rest) = block.as_chunks::<8>();
    // One flat loop: compilers vectorise that, and nothing less plain.
    let mut sum = 0_u64;
    for (word, key) in words.iter().zip(key) {
        let masked = u64::from_le_bytes(*word).wrapping_add(*key);
        sum = sum.wrapping_add((masked & LOW).wrapping_mul(masked >> 32));
    }
    if rest.is_empty() {
        return sum;
    }
    // How long a unit is never changes, so that zeros behind it are as good as its length.
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let masked = u64::from_le_bytes(last).wrapping_add(key[words.len()]);
    sum.wrapping_add((masked & LOW).wrapping_mul(masked >> 32))
}

/// The next value of a polynomial whose coefficients are both halves of the blocks' sums, at the key's point: two units
/// with other sums have the same with a probability of at most the number of coefficients by 2⁶¹.
#[inline(always)]
fn along(point: u64, so_far: u64, sum: u64) -> u64 {
    let step = |so_far: u64, half: u64| {
        let wide = u128::from(so_far) * u128::from(point) + u128::from(half);
        let reduced = (wide as u64 & PRIME) + (wide >> 61) as u64;
        if reduced >= PRIME { reduced - PRIME } else { reduced }
    };
    step(step(so_far, sum >> 32), sum & LOW)
}

#[inline(always)]
fn all_finite(block: &[u8]) -> bool {
    let is_finite = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes) & EXPONENT != EXPONENT;
    block.as_chunks().0.iter().fold(true, |finite, bytes| finite & is_finite(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> SealKey {
        SealKey::random().unwrap()
    }

    /// By the definition, with nothing fast in it.
    fn defined(key: &SealKey, bytes: &[u8]) -> u64 {
        let prime = u128::from(PRIME);
        let mut seal = 0_u128;
        for block in bytes.chunks(BLOCK) {
            let mut sum = 0_u64;
            for (word, key) in block.chunks(8).zip(&*key.words) {
                let mut padded = [0; 8];
                padded[..word.len()].copy_from_slice(word);
                let masked = u64::from_le_bytes(padded).wrapping_add(*key);
                sum = sum.wrapping_add(u64::from(masked as u32) * (masked >> 32));
            }
            for half in [sum >> 32, sum & LOW] {
                seal = (seal * u128::from(key.point) + u128::from(half)) % prime;
            }
        }
        seal as u64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn seals_are_what_the_definition_says(bytes in prop::collection::vec(any::<u8>(), 0..3 * BLOCK)) {
            let key = key();
            prop_assert_eq!(key.seal(&bytes), defined(&key, &bytes));
        }

        #[test]
        fn any_change_breaks_a_seal(
            mut bytes in prop::collection::vec(any::<u8>(), 1..2 * BLOCK),
            place in any::<prop::sample::Index>(),
            change in 1_u8..,
        ) {
            let key = key();
            let seal = key.seal(&bytes);
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            prop_assert_ne!(key.seal(&bytes), seal);
        }
    }

    #[test]
    fn another_key_gives_other_seals() {
        assert_ne!(key().seal(b"parameters"), key().seal(b"parameters"));
        assert_ne!(key().seal(&[]), 1, "of nothing it is 0, whatever the key");
    }

    fn visit(key: &SealKey, bytes: &[u8], unit_bytes: usize, copy: CopyTo<'_>, seals: Seals<'_>) -> Visited {
        Visit { key, bytes, unit_bytes, look: true, copy, seals }.run()
    }

    #[test]
    fn a_visit_copies_looks_and_compares_on_the_way() {
        let key = key();
        let numbers: Vec<f32> = (0..5000).map(|number| number as f32 - 0.5).collect();
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        for unit_bytes in [64, 4096, 6000, 16 << 10, 1 << 20] {
            // Of every three seals one is of these bytes.
            let mut seals = vec![7; bytes.len().div_ceil(unit_bytes) * 3];
            let mut over = vec![0; bytes.len()];
            let put = Seals::Put { seals: &mut seals, stride: 3 };
            let visited = visit(&key, &bytes, unit_bytes, CopyTo::Over(&mut over), put);
            assert_eq!(visited, Visited { broken: None, finite: true });
            assert_eq!(over, bytes);
            for (unit, seals) in bytes.chunks(unit_bytes).zip(seals.chunks(3)) {
                assert_eq!(seals, [key.seal(unit), 7, 7]);
            }
            let mut behind = vec![1];
            let compare = Seals::Compare { seals: &seals, stride: 3 };
            assert_eq!(visit(&key, &bytes, unit_bytes, CopyTo::Behind(&mut behind), compare).broken, None);
            assert_eq!(behind[1..], bytes);
        }
        let mut seals = vec![0; 5];
        visit(&key, &bytes, 4096, CopyTo::Nowhere, Seals::Put { seals: &mut seals, stride: 1 });
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            bytes[9000..9004].copy_from_slice(&value.to_le_bytes());
            let visited = visit(&key, &bytes, 4096, CopyTo::Nowhere, Seals::Compare { seals: &seals, stride: 1 });
            assert_eq!(visited, Visited { broken: Some(2), finite: false }, "9000 / 4096");
        }
    }
}
