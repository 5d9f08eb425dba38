//! The trial run at admission: does the optimizer keep its promises on tensors whose loss would hurt nobody, and what
//! does a step cost?

use crate::component::AdmittedComponent;
use crate::declarations::Granularity;
use crate::error::SandboxError;
use crate::fuel::{FuelModel, matrix_work};
use crate::limits::CHUNK_ELEMENTS;
use crate::local::{LocalTensor, LocalTraining};
use crate::plan::TensorDescription;
use crate::step::StepContext;

/// Rounds of the trial.
const ROUNDS: u64 = 3;

/// Rounds on tensors that are visited whole: some methods decompose matrices only every tenth round.
const WHOLE_ROUNDS: u64 = 11;

/// The tensors of the trial: two vectors, to tell the cost of a call from that of an element, neither a multiple of the
/// SDK's unrolling; two matrices for the same reason, whose rows no chunk ends at. The smaller comes first.
const SHAPES: [[&[u64]; 2]; 2] =
    [[&[CHUNK_ELEMENTS as u64 - 1], &[4 * CHUNK_ELEMENTS as u64 - 3]], [&[61, 67], &[127, 129]]];

/// Matrices for optimizers that visit them whole, whose work grows faster than the elements.
const WHOLE_SHAPES: [&[u64]; 2] = [&[24, 40], &[48, 80]];

/// Matrices of one column for optimizers that visit rows: there each element costs as much as a row does.
const NARROW_SHAPES: [&[u64]; 2] = [&[1021, 1], &[4093, 1]];

/// Runs the optimizer twice over the same rounds with its default settings and returns what a step costs.
pub(crate) fn rehearse(component: &AdmittedComponent) -> Result<FuelModel, SandboxError> {
    let (mut elements, mut matrices) = (Vec::new(), Vec::new());
    for pair in SHAPES {
        let mut pairs = vec![pair];
        match granularity(component, pair[0])? {
            Granularity::Elements => {}
            Granularity::Tensor => pairs = vec![WHOLE_SHAPES],
            Granularity::TouchedRows => pairs.push(NARROW_SHAPES),
        }
        for pair in pairs {
            let [low, high] = pair.map(|shape| twice(component, shape));
            let (low, high) = (low?, high?);
            // Where one is visited whole and the other not, they say nothing together.
            match (low.whole, high.whole) {
                (true, true) => matrices.push([low.cost, high.cost]),
                (false, false) => elements.push([low.cost, high.cost]),
                _ => {}
            }
        }
    }
    Ok(FuelModel::fitted(component.limits(), &elements, &matrices))
}

fn granularity(component: &AdmittedComponent, shape: &[u64]) -> Result<Granularity, SandboxError> {
    let settings = defaults(component)?;
    Ok(component.plan(&settings, &tensor(shape))?.granularity)
}

/// Runs the same rounds twice, which must end the same.
fn twice(component: &AdmittedComponent, shape: &[u64]) -> Result<Outcome, SandboxError> {
    let outcome = run(component, shape)?;
    if run(component, shape)?.state != outcome.state { Err(SandboxError::NotDeterministic) } else { Ok(outcome) }
}

/// What a trial's rounds end in.
struct Outcome {
    /// Bit for bit.
    state: Vec<u8>,
    /// `(work, fuel)` of the most expensive step.
    cost: (u64, u64),
    whole: bool,
}

fn run(component: &AdmittedComponent, shape: &[u64]) -> Result<Outcome, SandboxError> {
    let settings = defaults(component)?;
    let learning_rate = settings.learning_rate();
    let elements: u64 = shape.iter().product();
    let parameters: Vec<f32> = (0..elements as u32).map(|index| sample(index, 0)).collect();
    let local = LocalTensor { description: tensor(shape), settings, parameters };
    let mut training = LocalTraining::new(component, vec![local], elements)?;
    let whole = training.plan(0).granularity == Granularity::Tensor;
    let mut last = context(0, learning_rate);
    for round in 1..=if whole { WHOLE_ROUNDS } else { ROUNDS } {
        last = context(round, learning_rate);
        let gradient: Vec<f32> = (0..elements as u32).map(|index| sample(index, round as u32)).collect();
        training.round(&last, &[&gradient]).map_err(SandboxError::Trial)?;
    }
    let evaluation = training.evaluation(0, &last).map_err(SandboxError::Trial)?;
    let geometry = training.plan(0).geometry;
    let work = if whole { matrix_work(geometry.rows, geometry.columns) } else { elements };
    let cost = (work, training.take_most_fuel());
    let numbers = training.parameters(0)?.into_iter().chain(evaluation);
    let mut state: Vec<u8> = numbers.flat_map(|value| value.to_le_bytes()).collect();
    for slot in &training.plan(0).slots {
        training.slot(0, &slot.name)?.unwrap_or_default().into_iter().for_each(|bytes| state.extend_from_slice(bytes));
    }
    Ok(Outcome { state, cost, whole })
}

fn defaults(component: &AdmittedComponent) -> Result<crate::settings::Settings, SandboxError> {
    component
        .configure(None, &[])
        .map_err(|error| SandboxError::Description(format!("its defaults are not acceptable: {error}")))
}

fn tensor(shape: &[u64]) -> TensorDescription {
    TensorDescription { name: format!("trial{shape:?}"), shape: shape.to_vec(), ..TensorDescription::default() }
}

fn context(round: u64, learning_rate: f64) -> StepContext {
    StepContext {
        step: round,
        tensor_step: round,
        learning_rate: learning_rate as f32,
        peak_learning_rate: learning_rate as f32,
        contributors: 1,
        staleness: 0,
        loss: Some(1.0 / round.max(1) as f32),
        seed: 0,
    }
}

/// A made-up value in [-1, 1], with some zeros and some very small ones among them: what gradients look like.
fn sample(index: u32, round: u32) -> f32 {
    let hash = index.wrapping_mul(0x9e37_79b9) ^ round.wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    let value = (hash >> 8) as f32 / (1 << 23) as f32 - 1.0;
    match hash % 16 {
        0 => 0.0,
        1 => value * 1e-20,
        _ => value,
    }
}
