//! What the sandbox costs: a component against native code, against the interface that copies lists, and by what bounds it.
//!
//! The component runs as it does in a server (on one thread): gradient copied in block by block, fuel counted, the deadline
//! set, parameters and slots looked at, a round that can be taken back, committed. Whatever it is compared with takes turns
//! with it, on the same tensor with the same gradient, and must end with the same bits where it computes the same.

mod fit;
mod list_copying;
mod native;
mod resident;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stepbox_guest::bench;
use stepbox_sandbox::{
    AdmittedComponent, Granularity, Metering, Sandbox, SandboxConfig, SandboxError, TensorDescription,
};

pub use list_copying::ListCopying;
pub use resident::Resident;

use crate::findings::{count, read_component};
use crate::report::{Axis, Chart, Series};
use crate::turns::{Contestant, Turns, in_turn, scaled};
use crate::{BenchError, Components, Effort, Findings, Row, Spread, update};
use fit::Cost;
use native::{BuiltIn, NativeCrate};

const BENCH: &str = "overhead";

/// Sizes of the sweep, in parameters. Squares, since tensors are square matrices: some optimizers treat vectors otherwise.
const SIZES: [usize; 7] = [1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26];

/// Sizes of the quick sweep.
const QUICK_SIZES: [usize; 2] = [1 << 14, 1 << 16];

/// Sizes that a line is fitted to: within one slice, and in the cache all of them.
const FITTED_SIZES: [usize; 4] = [1 << 10, 1 << 12, 1 << 14, 1 << 16];

/// Sizes at which metering is looked at: in the cache, and not.
const METERED_SIZES: [usize; 2] = [1 << 16, 1 << 24];

/// A tensor is left out where its round would take longer: matrix methods on large matrices do.
const LONGEST_ROUND: Duration = Duration::from_secs(2);

/// How much longer a round takes on four times the elements, where matrices are multiplied.
const GROWTH: f64 = 8.0;

/// A component whose rounds take this much longer with metering than without has a loop that goes round too often. AdamW's,
/// which the SDK unrolls, is well below.
const DEAR_METERING: f64 = 1.25;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where components are.
    pub components: Components,
    /// A component of somebody's own, in place of AdamW.
    pub component: Option<PathBuf>,
    /// The crate that it is made of, to be run natively.
    pub native_crate: Option<PathBuf>,
}

/// A tensor that contestants step, each its own copy, with the same gradient.
#[derive(Debug, Clone)]
pub struct Tensor {
    shape: Vec<u64>,
    gradient: Arc<Vec<f32>>,
}

impl Tensor {
    /// A square matrix of as many elements, or nearly so; a vector where their number does not divide.
    pub fn of(elements: usize) -> Self {
        let rows = 1 << (elements.max(1).ilog2() / 2);
        let shape = match elements % rows {
            0 => vec![rows as u64, (elements / rows) as u64],
            _ => vec![elements as u64],
        };
        Self { shape, gradient: Arc::new(bench::gradient(elements)) }
    }

    /// How many elements it has.
    pub fn elements(&self) -> usize {
        self.gradient.len()
    }
}

/// Runs the benchmark.
///
/// # Errors
/// A component is not there, is not admitted or fails, or two that should compute the same do not.
pub fn measure(options: &Options, effort: &Effort<'_>) -> Result<Findings, BenchError> {
    match &options.component {
        None => of_adamw(options, effort),
        Some(path) => {
            let bytes = read_component(path)?;
            let native = options.native_crate.as_deref().map(NativeCrate::start).transpose()?;
            of_component(&bytes, native, effort)
        }
    }
}

/// AdamW against all that it can be compared with.
fn of_adamw(options: &Options, effort: &Effort<'_>) -> Result<Findings, BenchError> {
    let adamw = options.components.read("adamw")?;
    let lists = options.components.read("benches/list-copying")?;
    let admitted = Sandbox::new(SandboxConfig::default())?.admit(&adamw)?;
    let mut findings = Findings::default();
    core(&adamw, effort, &mut findings)?;
    let largest = sweep(&admitted, &mut Baseline::BuiltIn { lists: Some(&lists) }, effort, &mut findings)?;
    fitted(&admitted, &mut Baseline::BuiltIn { lists: None }, effort, &mut findings)?;
    metering("adamw", &adamw, largest, effort, &mut findings)?;
    Ok(findings)
}

/// Somebody's component against its own crate, or else against AdamW.
fn of_component(bytes: &[u8], native: Option<NativeCrate>, effort: &Effort<'_>) -> Result<Findings, BenchError> {
    let admitted = Sandbox::new(SandboxConfig::default())?.admit(bytes)?;
    let name = admitted.description().name.clone();
    let mut findings = Findings::default();
    if native.is_none() && name != "adamw" {
        findings.notes.push(format!(
            "The baseline is AdamW, not {name}: with `--native-crate` and the folder of its crate it is {name} itself."
        ));
    }
    let mut baseline = native.map_or(Baseline::BuiltIn { lists: None }, Baseline::Crate);
    let largest = sweep(&admitted, &mut baseline, effort, &mut findings)?;
    fitted(&admitted, &mut baseline, effort, &mut findings)?;
    let dearest = metering(&name, bytes, largest, effort, &mut findings)?;
    if dearest > DEAR_METERING {
        findings.notes.push(format!(
            "{name} is slow for each element: metering alone makes it {dearest:.2} times as slow, since it counts at each turn \
             of a loop, and its loop goes round for too few elements. Let the SDK run the loop (`Elementwise`, or \
             `block.update`), or write out 32 elements a turn."
        ));
    }
    Ok(findings)
}

/// The figures that the project's goals are about.
fn core(adamw: &[u8], effort: &Effort<'_>, findings: &mut Findings) -> Result<(), BenchError> {
    for (parameters, steps) in effort.either([(1 << 14, 3), (1 << 16, 3)], [(1 << 16, 101), (1 << 24, 9)]) {
        (effort.progress)(&format!("AdamW, {} parameters, as the goals have it", count(parameters)));
        findings.rows.extend(update::measure(adamw, parameters, steps)?);
    }
    Ok(())
}

/// What a component is compared with.
enum Baseline<'a> {
    /// AdamW, and its twin that copies lists where there is one.
    BuiltIn { lists: Option<&'a [u8]> },
    /// The crate that the component is made of.
    Crate(NativeCrate),
}

impl Baseline<'_> {
    fn name(&self, component: &str) -> String {
        match self {
            Self::BuiltIn { .. } if component == "adamw" => native::BUILT_IN.into(),
            Self::BuiltIn { .. } => "native AdamW, another optimizer".into(),
            Self::Crate(_) => format!("{component}, the same source, native for this processor, in place"),
        }
    }
}

/// Seconds a round, turn by turn.
struct Times {
    resident: Vec<f64>,
    native: Vec<f64>,
    lists: Option<Vec<f64>>,
}

/// Times a component and what it is compared with on one tensor, and sees that they compute the same.
fn compare(
    admitted: &AdmittedComponent,
    baseline: &mut Baseline<'_>,
    elements: usize,
    effort: &Effort<'_>,
) -> Result<Times, BenchError> {
    let name = &admitted.description().name;
    let tensor = Tensor::of(elements);
    let turns = Turns::of(elements, effort.quick);
    let mut resident = Resident::new(admitted, &tensor)?;
    let differs = |what: &str, other: String| BenchError::OtherBits { what: what.into(), other };
    match baseline {
        Baseline::Crate(native) => {
            native.tensor(&tensor.shape)?;
            let times = in_turn(&mut [&mut resident, native], turns)?;
            if resident.digest()? != native.digest()? {
                return Err(differs(name, "its crate, run natively".into()));
            }
            let [resident, native] = times.try_into().unwrap_or_default();
            Ok(Times { resident, native, lists: None })
        }
        Baseline::BuiltIn { lists } => {
            let mut native = BuiltIn::new(&tensor);
            let mut lists = lists.map(|lists| ListCopying::new(lists, &tensor)).transpose()?;
            let mut contestants: Vec<&mut dyn Contestant> = vec![&mut resident, &mut native];
            contestants.extend(lists.as_mut().map(|lists| lists as &mut dyn Contestant));
            let mut times = in_turn(&mut contestants, turns)?.into_iter();
            if name == "adamw" && resident.digest()? != native.digest() {
                return Err(differs("adamw", "the native AdamW".into()));
            }
            if let Some(lists) = &lists
                && lists.digest() != native.digest()
            {
                return Err(differs("the component that copies lists", "the native AdamW".into()));
            }
            let mut next = || times.next().unwrap_or_default();
            Ok(Times { resident: next(), native: next(), lists: lists.is_some().then(next) })
        }
    }
}

/// Times by size. Returns the largest size that was reached.
fn sweep(
    admitted: &AdmittedComponent,
    baseline: &mut Baseline<'_>,
    effort: &Effort<'_>,
    findings: &mut Findings,
) -> Result<usize, BenchError> {
    let name = admitted.description().name.clone();
    let against = baseline.name(&name);
    let mut largest = 0;
    let mut lines =
        [(name.clone(), Vec::new()), (against.clone(), Vec::new()), (list_copying::NAME.into(), Vec::new())];
    let sizes = effort.either(&QUICK_SIZES[..], &SIZES[..]);
    for &elements in sizes {
        (effort.progress)(&format!("{name}, {} parameters", count(elements)));
        let times = match compare(admitted, baseline, elements, effort) {
            // Some optimizers take matrices up to a size only.
            Err(BenchError::Sandbox(SandboxError::Plan { reason, .. })) if !lines[0].1.is_empty() => {
                findings.notes.push(format!("{name} refuses a tensor of {} parameters: {reason}.", count(elements)));
                break;
            }
            times => times?,
        };
        let nanoseconds = |times: &[f64]| scaled(times, |time| time * 1e9 / elements as f64);
        let resident = nanoseconds(&times.resident);
        let mut compared = |what: &str, line: usize, seconds: &[f64]| {
            let baselines = nanoseconds(seconds);
            let case = match line {
                1 => format!("{name}, {} parameters", count(elements)),
                _ => format!("{name}, {} parameters, resident instead of copied", count(elements)),
            };
            lines[line].1.push((elements as f64, Spread::of(baselines.clone()).median));
            let row = Row::of_turns(BENCH, case, "ns/parameter", resident.clone());
            findings.rows.push(row.against_turns(what, &resident, baselines));
        };
        compared(&against, 1, &times.native);
        if let Some(lists) = &times.lists {
            compared(list_copying::NAME, 2, lists);
        }
        lines[0].1.push((elements as f64, Spread::of(resident).median));
        largest = elements;
        let round = Spread::of(times.resident).median;
        if round * GROWTH > LONGEST_ROUND.as_secs_f64() && sizes.last() != Some(&elements) {
            let size = count(elements);
            findings
                .notes
                .push(format!("{name} takes {round:.1} s for {size} parameters; larger tensors are left out."));
            break;
        }
    }
    findings.charts.push(Chart {
        file: "overhead-by-size".into(),
        title: format!("A round of {name}, by size"),
        x: Axis::logarithmic("parameters"),
        y: Axis::linear("ns per parameter"),
        series: lines.into_iter().filter(|(_, points)| !points.is_empty()).map(Series::line).collect(),
    });
    Ok(largest)
}

/// What a call and an element cost, by a line through the times of small sizes.
fn fitted(
    admitted: &AdmittedComponent,
    baseline: &mut Baseline<'_>,
    effort: &Effort<'_>,
    findings: &mut Findings,
) -> Result<(), BenchError> {
    let name = admitted.description().name.clone();
    let settings = admitted.configure(None, &[])?;
    let shape = Tensor::of(FITTED_SIZES[0]).shape;
    let description = TensorDescription { name: "tensor".into(), shape, ..TensorDescription::default() };
    if admitted.plan(&settings, &description)?.granularity != Granularity::Elements {
        findings
            .notes
            .push(format!("{name} does not visit element by element, so that no cost of an element is fitted."));
        return Ok(());
    }
    let against = baseline.name(&name);
    let mut times = Vec::new();
    for elements in FITTED_SIZES {
        (effort.progress)(&format!("{name}, {} parameters, for the cost of a call", count(elements)));
        times.push(compare(admitted, baseline, elements, effort)?);
    }
    let turns = times.iter().map(|times| times.resident.len()).min().unwrap_or(0);
    let costs = |of: fn(&Times) -> &Vec<f64>| -> Vec<Cost> {
        let points = |turn: usize| -> Vec<(f64, f64)> {
            FITTED_SIZES.iter().zip(&times).map(|(elements, times)| (*elements as f64, of(times)[turn])).collect()
        };
        (0..turns).filter_map(|turn| Cost::fitted(&points(turn))).collect()
    };
    let (resident, native) = (costs(|times| &times.resident), costs(|times| &times.native));
    let of_call = |costs: &[Cost]| costs.iter().map(|cost| cost.call * 1e6).collect::<Vec<_>>();
    let of_each = |costs: &[Cost]| costs.iter().map(|cost| cost.each * 1e9).collect::<Vec<_>>();
    let case =
        |what: &str| format!("{name}, {what}, fitted from {} to {}", count(FITTED_SIZES[0]), count(FITTED_SIZES[3]));
    findings.rows.push(Row::of_turns(
        BENCH,
        case("a round of one slice besides its elements"),
        "µs",
        of_call(&resident),
    ));
    let each = of_each(&resident);
    let row = Row::of_turns(BENCH, case("an element"), "ns/parameter", each.clone());
    findings.rows.push(row.against_turns(against, &each, of_each(&native)));
    Ok(())
}

/// What bounds cost. Returns the dearest ratio of all bounds against none.
fn metering(
    name: &str,
    bytes: &[u8],
    largest: usize,
    effort: &Effort<'_>,
    findings: &mut Findings,
) -> Result<f64, BenchError> {
    const MODES: [(Metering, &str); 4] = [
        (Metering::Off, "no metering"),
        (Metering::Fuel, "fuel"),
        (Metering::Epochs, "epochs"),
        (Metering::FuelAndEpochs, "fuel and epochs"),
    ];
    let admit = |(metering, _)| Ok(Sandbox::metered(SandboxConfig::default(), metering)?.admit(bytes)?);
    let admitted = MODES.into_iter().map(admit).collect::<Result<Vec<_>, BenchError>>()?;
    let mut dearest = 0.0_f64;
    let mut bars = Vec::new();
    for &elements in effort.either(&METERED_SIZES[..1], &METERED_SIZES[..]).iter().filter(|size| **size <= largest) {
        (effort.progress)(&format!("{name}, {} parameters, with and without metering", count(elements)));
        let tensor = Tensor::of(elements);
        let mut residents =
            admitted.iter().map(|admitted| Resident::new(admitted, &tensor)).collect::<Result<Vec<_>, _>>()?;
        let mut contestants: Vec<_> = residents.iter_mut().map(|resident| resident as &mut dyn Contestant).collect();
        let times = in_turn(&mut contestants, Turns::of(elements, effort.quick))?;
        let expected = residents[0].digest()?;
        for (resident, (_, mode)) in residents.iter().zip(MODES).skip(1) {
            if resident.digest()? != expected {
                return Err(BenchError::OtherBits { what: format!("{name} with {mode}"), other: MODES[0].1.into() });
            }
        }
        let times: Vec<_> = times.iter().map(|times| scaled(times, |time| time * 1e9 / elements as f64)).collect();
        bars.push((count(elements), times.iter().map(|times| Spread::of(times.clone()).median).collect::<Vec<_>>()));
        for (values, (_, mode)) in times.iter().zip(MODES).skip(1) {
            let case = format!("{name}, {} parameters, {mode}", count(elements));
            let row = Row::of_turns(BENCH, case, "ns/parameter", values.clone());
            let row = row.against_turns(MODES[0].1, values, times[0].clone());
            dearest = dearest.max(row.ratio.unwrap_or(0.0));
            findings.rows.push(row);
        }
    }
    findings.charts.push(Chart {
        file: "overhead-metering".into(),
        title: format!("What bounds cost {name}"),
        x: Axis::names("parameters", bars.iter().map(|(size, _)| size.clone()).collect()),
        y: Axis::linear("ns per parameter"),
        series: MODES
            .iter()
            .enumerate()
            .map(|(mode, (_, name))| Series::bars(*name, bars.iter().map(|(_, values)| values[mode]).collect()))
            .collect(),
    });
    Ok(dearest)
}
