//! How fast one core can read and write memory: what a reduction is held against.
//!
//! A reduction of n gradients reads n streams and writes one. The probe moves the same bytes and computes as little as it
//! can, compiled for the widest vectors that the processor has. It does so in three ways, and the fastest counts in each
//! turn, since which one that is depends on the processor and on the number of streams:
//!
//! - everything is read, one gradient after the other, adding up words so that reading them is not left out; then the
//!   result is filled with zeros;
//! - the same tile by tile: a part of each gradient is read, and then that part of the result is filled;
//! - all streams side by side: words of all gradients are added up, as integers and in whatever order is fastest, and
//!   written, which is a reduction without its arithmetic.
//!
//! The first two leave writing to `slice::fill`, the C library's `memset`, which need not read what it writes over.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pulp::{Arch, NullaryFnOnce};

/// Elements of a tile, 64 KiB: a result of a tile fits the first caches.
const TILE: usize = 1 << 14;

/// Words that are added up side by side: four vectors of the widest kind.
const LANES: usize = 64;

/// Time of the fastest way. Each gradient has two or four bytes for each element of `result`.
pub(crate) fn probe(gradients: &[&[u8]], result: &mut [u32]) -> Duration {
    let arch = Arch::new();
    let width = gradients.first().map_or(4, |gradient| gradient.len() / result.len().max(1));
    let whole = timed(|| {
        for gradient in gradients {
            black_box(arch.dispatch(Sum(gradient)));
        }
        black_box(&mut *result).fill(0);
    });
    let tiled = timed(|| {
        for (tile, result) in black_box(&mut *result).chunks_mut(TILE).enumerate() {
            let bytes = tile * TILE * width..(tile * TILE + result.len()) * width;
            for gradient in gradients {
                black_box(arch.dispatch(Sum(&gradient[bytes.clone()])));
            }
            result.fill(0);
        }
    });
    let streams = timed(|| arch.dispatch(Streams { gradients, width, result: black_box(&mut *result) }));
    whole.min(tiled).min(streams)
}

/// All words of a gradient, added up.
struct Sum<'a>(&'a [u8]);

impl NullaryFnOnce for Sum<'_> {
    type Output = u32;

    #[inline(always)]
    fn call(self) -> u32 {
        let (words, _) = self.0.as_chunks::<4>();
        words.iter().fold(0, |sum, word| sum.wrapping_add(u32::from_le_bytes(*word)))
    }
}

/// The words of all gradients at each place, added up and written.
struct Streams<'a> {
    gradients: &'a [&'a [u8]],
    /// Bytes of an element.
    width: usize,
    result: &'a mut [u32],
}

impl NullaryFnOnce for Streams<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (run, result) in self.result.chunks_mut(LANES).enumerate() {
            let start = run * LANES * self.width;
            match result.as_chunks_mut::<LANES>() {
                ([result], []) => add_up(self.gradients, start, self.width, result),
                (_, rest) => add_up(self.gradients, start, self.width, rest),
            }
        }
    }
}

#[inline(always)]
fn add_up(gradients: &[&[u8]], start: usize, width: usize, result: &mut [u32]) {
    let mut sums = [0_u32; LANES];
    for gradient in gradients {
        let (words, _) = gradient[start..start + result.len() * width].as_chunks::<4>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u32::from_le_bytes(*word));
        }
    }
    // Where elements are half as wide there are half as many sums, which are written twice.
    let (first, second) = result.split_at_mut(result.len() * width / 4);
    first.copy_from_slice(&sums[..first.len()]);
    second.copy_from_slice(&sums[..second.len()]);
}

fn timed(run: impl FnOnce()) -> Duration {
    let since = Instant::now();
    run();
    since.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_reads_everything_and_writes_everything() {
        let bytes: Vec<u8> = (1..=1001_u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(Sum(&bytes).call(), 1001 * 1002 / 2);
        let mut result = vec![1; 1001];
        assert!(probe(&[&bytes, &bytes], &mut result) > Duration::ZERO);
        assert!(result.iter().zip(1..).all(|(sum, word)| *sum == 2 * word));

        let mut twice = vec![1; 2002];
        assert!(probe(&[&bytes, &bytes, &bytes], &mut twice) > Duration::ZERO);
        assert!(twice.iter().all(|sum| sum % 3 == 0 && *sum > 0));
    }
}
