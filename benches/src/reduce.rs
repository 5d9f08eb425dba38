//! The reduction of gradients against the memory bandwidth of one core.

use std::time::{Duration, Instant};

use stepbox_guest::bench;
use stepbox_reduce::{Format, Gradient, Reduction};

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

/// Formats that gradients arrive in.
const FORMATS: [Format; 3] = [Format::F32, Format::Bf16, Format::F16];

/// A made-up gradient of finite numbers.
fn encoded(format: Format, elements: usize) -> Vec<u8> {
    let bits = bench::gradient(elements).into_iter().map(f32::to_bits);
    match format {
        Format::F32 => bits.flat_map(u32::to_le_bytes).collect(),
        Format::Bf16 => bits.flat_map(|bits| ((bits >> 16) as u16).to_le_bytes()).collect(),
        // Some bits, without the highest of the exponent: none is infinite or NaN.
        Format::F16 => bits.flat_map(|bits| ((bits >> 8) as u16 & 0xbfff).to_le_bytes()).collect(),
    }
}

/// Runs the benchmark.
///
/// # Errors
/// None that is known.
pub fn measure(effort: &Effort<'_>) -> Result<Findings, BenchError> {
    let elements = effort.either(QUICK_ELEMENTS, ELEMENTS);
    let mut findings = Findings::default();
    for format in FORMATS {
        let gradient = encoded(format, elements);
        // Copies of one: what the numbers are makes no difference, that each lies elsewhere does.
        let gradients: Vec<Vec<u8>> = (0..WORKERS[WORKERS.len() - 1]).map(|_| gradient.clone()).collect();
        let mut bars = [Vec::new(), Vec::new()];
        for workers in WORKERS {
            (effort.progress)(&format!("mean of {workers} gradients, {}", format.name()));
            let gradients: Vec<&[u8]> = gradients[..workers].iter().map(Vec::as_slice).collect();
            let mut reduction = Mean {
                gradients: gradients.iter().map(|bytes| Gradient::new(format, bytes)).collect(),
                result: vec![0.0; elements],
            };
            let mut probe = Probe { gradients: &gradients, result: vec![0; elements] };
            let turns = Turns { timed: effort.either(5, 21), ..Turns::of(elements, effort.quick) };
            let times = in_turn(&mut [&mut reduction, &mut probe], turns)?;
            let bytes = (elements * (workers * format.element_bytes() + size_of::<f32>())) as f64;
            let [reduction, probe] = [0, 1].map(|index| scaled(&times[index], |time| bytes / time / 1e9));
            bars[0].push(Spread::of(reduction.clone()).median);
            bars[1].push(Spread::of(probe.clone()).median);
            let case = format!("mean of {workers}, {}, {} elements", format.name(), count(elements));
            let row = Row::of_turns(BENCH, case, "GB/s", reduction.clone()).against_turns(PROBE, &reduction, probe);
            findings.rows.push(match GOAL {
                (of, goal) if of == workers && format == Format::F32 => row.goal(goal),
                _ => row,
            });
        }
        let [reduction, probe] = bars;
        findings.charts.push(Chart {
            file: format!("reduce-{}", format.name()),
            title: format!("The mean of gradients in {}, bytes read and written", format.name()),
            x: Axis::names("gradients", WORKERS.iter().map(usize::to_string).collect()),
            y: Axis::linear("GB/s"),
            series: vec![Series::bars("mean", reduction), Series::bars(PROBE, probe)],
        });
    }
    Ok(findings)
}

struct Mean<'a> {
    gradients: Vec<Gradient<'a>>,
    result: Vec<f32>,
}

impl Contestant for Mean<'_> {
    fn steps(&mut self, count: u32) -> Result<Duration, BenchError> {
        let since = Instant::now();
        for _ in 0..count {
            Reduction::mean().reduce_into(&self.gradients, &mut self.result)?;
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
