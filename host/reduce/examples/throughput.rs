//! How fast gradients are reduced, searched, measured and copied on this machine, beside how fast it reads memory:
//! `cargo run --release -p stepbox-reduce --example throughput`.
//!
//! Prints the median of several runs for tensors that fit the caches and one that does not. For the latter, `of reading`
//! is the operation's GB/s, its result's bytes included, as a share of those at which the same gradients are only read, one
//! after the other; both take turns, so that a disturbance meets both.

use std::hint::black_box;
use std::time::Instant;

use stepbox_reduce::{Format, Gradient, InstructionSet, Reduction, SquareSums, copy_finite};

/// Odd, so that there is a median.
const RUNS: usize = 9;

/// Elements worked on in a run, at least: enough for a clock of a microsecond.
const ELEMENTS_A_RUN: usize = 1 << 24;

/// Beyond all caches.
const LARGEST: usize = 1 << 24;

const F32: usize = size_of::<f32>();

fn main() {
    println!("instructions: {}", InstructionSet::best());
    println!("{:>10} {:>18} {:>12} {:>8} {:>11}", "elements", "operation", "ns/element", "GB/s", "of reading");
    for elements in [1 << 12, 1 << 16, 1 << 20, LARGEST] {
        let mut out = vec![0.0; elements];
        for format in [Format::F32, Format::Bf16, Format::F16] {
            // One byte off, as bytes behind a frame's header may be.
            let buffers: Vec<Vec<u8>> = (0..8).map(|seed| buffer(format, elements, seed)).collect();
            let gradients: Vec<_> = buffers.iter().map(|buffer| Gradient::new(format, &buffer[1..])).collect();
            for count in [1, 4, 8] {
                let gradients = &gradients[..count];
                let written = elements * F32;
                compare(&format!("mean of {count} {format}"), gradients, elements, written, || {
                    Reduction::mean().reduce_into(black_box(gradients), &mut out).expect("finite");
                });
            }
            let gradient = &gradients[..1];
            compare(&format!("all finite, {format}"), gradient, elements, 0, || {
                assert!(format.all_finite(black_box(gradient[0].bytes())));
            });
        }
        let buffers: Vec<Vec<u8>> = (0..4).map(|seed| buffer(Format::F32, elements, seed)).collect();
        let gradients: Vec<_> = buffers.iter().map(|buffer| Gradient::f32(&buffer[1..])).collect();
        compare("mean, squares of 4", &gradients, elements, elements * F32, || {
            let mut squares = SquareSums::new();
            let mean = Reduction::mean();
            mean.reduce_and_square_into(black_box(&gradients), &mut out, &mut squares).expect("finite");
            black_box(squares.norm());
        });
        let mut target = vec![0; elements * F32];
        compare("copy of f32", &gradients[..1], elements, elements * F32, || {
            copy_finite(black_box(gradients[0].bytes()), &mut target).expect("finite");
        });
    }
}

/// Small numbers, the same for a seed.
fn buffer(format: Format, elements: usize, seed: usize) -> Vec<u8> {
    let values = (0..elements).map(|index| ((index * 7 + seed) % 100) as u8);
    let bytes: Vec<u8> = match format {
        Format::F32 => values.flat_map(|value| f32::from(value).to_le_bytes()).collect(),
        Format::Bf16 | Format::F16 => values.flat_map(|value| [value, 0x30]).collect(),
    };
    std::iter::once(0).chain(bytes).collect()
}

/// Times an operation that reads these gradients and writes some bytes, and reading alone.
fn compare(operation: &str, gradients: &[Gradient<'_>], elements: usize, written: usize, mut work: impl FnMut()) {
    let repetitions = (ELEMENTS_A_RUN / elements / gradients.len()).max(1);
    let mut seconds = [const { Vec::new() }; 2];
    for _ in 0..RUNS {
        seconds[0].push(time(repetitions, || gradients.iter().for_each(|gradient| read(gradient.bytes()))));
        seconds[1].push(time(repetitions, &mut work));
    }
    let [reading, working] = seconds.map(|mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[RUNS / 2]
    });
    let read: usize = gradients.iter().map(|gradient| gradient.bytes().len()).sum();
    let gigabytes = (read + written) as f64 / working / 1e9;
    let share = gigabytes / (read as f64 / reading / 1e9);
    let nanoseconds = working * 1e9 / elements as f64;
    print!("{elements:>10} {operation:>18} {nanoseconds:>12.3} {gigabytes:>8.1}");
    // Reading is compiled for any processor of this architecture, which is enough for memory and not for caches.
    if elements == LARGEST { println!(" {share:>11.2}") } else { println!() }
}

fn time(repetitions: usize, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..repetitions).for_each(|_| work());
    start.elapsed().as_secs_f64() / repetitions as f64
}

/// Reads all bytes, with one exclusive or for each register.
fn read(bytes: &[u8]) {
    let (lines, _) = black_box(bytes).as_chunks::<256>();
    let mut sums = [0_u64; 32];
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks().0) {
            *sum ^= u64::from_le_bytes(*word);
        }
    }
    black_box(sums);
}
