//! How fast gradients are reduced and searched on this machine: `cargo run --release -p stepbox-reduce --example
//! throughput`. Prints the median of several runs for tensors that fit the caches and one that does not.

use std::hint::black_box;
use std::time::Instant;

use stepbox_reduce::{InstructionSet, all_finite, mean_into};

/// Odd, so that there is a median.
const RUNS: usize = 9;

/// Elements worked on in a run, at least: enough for a clock of a microsecond.
const ELEMENTS_A_RUN: usize = 1 << 24;

fn main() {
    println!("instructions: {}", InstructionSet::best());
    println!("{:>10} {:>14} {:>12} {:>8}", "elements", "operation", "ns/element", "GB/s");
    for elements in [1 << 12, 1 << 16, 1 << 20, 1 << 24] {
        // One byte off, as bytes behind a frame's header are.
        let buffers: Vec<Vec<u8>> = (0..8).map(|seed| buffer(elements, seed)).collect();
        let gradients: Vec<&[u8]> = buffers.iter().map(|buffer| &buffer[1..]).collect();
        let mut out = vec![0.0; elements];
        for count in [1, 2, 3, 4, 8] {
            let seconds = median(elements, || {
                mean_into(black_box(&gradients[..count]), &mut out).expect("lengths agree");
            });
            print(elements, &format!("mean of {count}"), seconds, count + 1);
        }
        let seconds = median(elements, || assert!(all_finite(black_box(gradients[0]))));
        print(elements, "all finite", seconds, 1);
    }
}

fn buffer(elements: usize, seed: usize) -> Vec<u8> {
    let values = (0..elements).flat_map(|index| (((index * 7 + seed) % 1000) as f32).to_le_bytes());
    std::iter::once(0).chain(values).collect()
}

fn median(elements: usize, mut work: impl FnMut()) -> f64 {
    let repetitions = (ELEMENTS_A_RUN / elements).max(1);
    let mut seconds: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            (0..repetitions).for_each(|_| work());
            start.elapsed().as_secs_f64() / repetitions as f64
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[RUNS / 2]
}

fn print(elements: usize, operation: &str, seconds: f64, streams: usize) {
    let nanoseconds = seconds * 1e9 / elements as f64;
    let gigabytes = (streams * elements * size_of::<f32>()) as f64 / seconds / 1e9;
    println!("{elements:>10} {operation:>14} {nanoseconds:>12.3} {gigabytes:>8.1}");
}
