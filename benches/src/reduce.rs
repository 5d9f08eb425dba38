//! The reduction of gradients against the memory bandwidth of one core.

use std::time::{Duration, Instant};

use stepbox_guest::bench;
use stepbox_reduce::ReduceError;

use crate::bandwidth;
use crate::findings::count;
use crate::report::{Axis, Chart, Series};
use crate::turns::{Contestant, Turns, in_turn, scaled};
use crate::{BenchError, Effort, Findings, Goal, Row, Spread};

const BENCH: &str = "reduce";

/// Elements of each gradient: far beyond any cache.
const ELEMENTS: usize = 1 << 24;

/// The same for a quick run.
const QUICK_ELEMENTS: usize = 1 << 18;

/// How many gradients there are.
const WORKERS: [usize; 4] = [1, 2, 4, 8];

/// What the goal is about.
const GOAL: (usize, Goal) = (4, Goal::RatioAtLeast(0.85));

/// What the baseline is called.
const PROBE: &str = "reading and writing the same bytes, one core";

/// A form that gradients arrive in, and how a mean is made of it.
struct Encoding {
    name: &'static str,
    bytes_per_element: usize,
    encode: fn(&[f32]) -> Vec<u8>,
    mean_into: MeanInto,
}

type MeanInto = fn(&[&[u8]], &mut [f32]) -> Result<(), ReduceError>;

/// All of them.
const ENCODINGS: [Encoding; 1] = [Encoding {
    name: "f32",
    bytes_per_element: 4,
    encode: |values| values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    mean_into: stepbox_reduce::mean_into,
}];

/// Runs the benchmark.
///
/// # Errors
/// None that is known.
pub fn measure(effort: &Effort<'_>) -> Result<Findings, BenchError> {
    let elements = effort.either(QUICK_ELEMENTS, ELEMENTS);
    let mut findings = Findings::default();
    for encoding in ENCODINGS {
        let gradient = (encoding.encode)(&bench::gradient(elements));
        // Copies of one: what the numbers are makes no difference, that each lies elsewhere does.
        let gradients: Vec<Vec<u8>> = (0..WORKERS[WORKERS.len() - 1]).map(|_| gradient.clone()).collect();
        let mut bars = [Vec::new(), Vec::new()];
        for workers in WORKERS {
            (effort.progress)(&format!("mean of {workers} gradients, {}", encoding.name));
            let gradients: Vec<&[u8]> = gradients[..workers].iter().map(Vec::as_slice).collect();
            let mut reduction = Reduction { encoding: &encoding, gradients: &gradients, result: vec![0.0; elements] };
            let mut probe = Probe { gradients: &gradients, result: vec![0; elements] };
            let turns = Turns { timed: effort.either(5, 21), ..Turns::of(elements, effort.quick) };
            let times = in_turn(&mut [&mut reduction, &mut probe], turns)?;
            let bytes = (elements * (workers * encoding.bytes_per_element + size_of::<f32>())) as f64;
            let [reduction, probe] = [0, 1].map(|index| scaled(&times[index], |time| bytes / time / 1e9));
            bars[0].push(Spread::of(reduction.clone()).median);
            bars[1].push(Spread::of(probe.clone()).median);
            let case = format!("mean of {workers}, {}, {} elements", encoding.name, count(elements));
            let row = Row::of_turns(BENCH, case, "GB/s", reduction.clone()).against_turns(PROBE, &reduction, probe);
            findings.rows.push(match GOAL {
                (of, goal) if of == workers && encoding.name == "f32" => row.goal(goal),
                _ => row,
            });
        }
        let [reduction, probe] = bars;
        findings.charts.push(Chart {
            file: format!("reduce-{}", encoding.name),
            title: format!("The mean of gradients in {}, bytes read and written", encoding.name),
            x: Axis::names("gradients", WORKERS.iter().map(usize::to_string).collect()),
            y: Axis::linear("GB/s"),
            series: vec![Series::bars("mean", reduction), Series::bars(PROBE, probe)],
        });
    }
    Ok(findings)
}

struct Reduction<'a> {
    encoding: &'a Encoding,
    gradients: &'a [&'a [u8]],
    result: Vec<f32>,
}

impl Contestant for Reduction<'_> {
    fn steps(&mut self, count: u32) -> Result<Duration, BenchError> {
        let since = Instant::now();
        for _ in 0..count {
            (self.encoding.mean_into)(self.gradients, &mut self.result)?;
        }
        Ok(since.elapsed())
    }
}

struct Probe<'a> {
    gradients: &'a [&'a [u8]],
    result: Vec<u32>,
}

impl Contestant for Probe<'_> {
    fn steps(&mut self, count: u32) -> Result<Duration, BenchError> {
        Ok((0..count).map(|_| bandwidth::probe(self.gradients, &mut self.result)).sum())
    }
}
