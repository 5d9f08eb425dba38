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

/// Runs the optimizer with its default settings and returns what a step costs.
///
/// Each tensor goes through its rounds twice: once alone, in an instance of its own, and once in one instance with another
/// tensor, in turn with it. Both must end the same, bit for bit. Seals tell where the step of one changes the other.
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
            let [low, high] = alone_and_together(component, pair)?;
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

/// What tensors of these shapes end in when each is alone, which must be what they end in side by side.
fn alone_and_together(component: &AdmittedComponent, shapes: [&[u64]; 2]) -> Result<[Outcome; 2], SandboxError> {
    let alone = [run(component, &shapes[..1])?.remove(0), run(component, &shapes[1..])?.remove(0)];
    for ((alone, together), shape) in alone.iter().zip(run(component, &shapes)?).zip(shapes) {
        if alone.state != together.state {
            // One of two promises is broken; a third run tells which.
            let again = run(component, &[shape])?.remove(0);
            return Err(match again.state == alone.state {
                true => SandboxError::Entangled { tensor: tensor(shape).name },
                false => SandboxError::NotDeterministic,
            });
        }
    }
    Ok(alone)
}

/// What a tensor's rounds end in.
struct Outcome {
    /// Bit for bit.
    state: Vec<u8>,
    /// `(work, fuel)` of the most expensive step; of all tensors where there are several.
    cost: (u64, u64),
    whole: bool,
}

/// Takes tensors of these shapes, all in one instance, through their rounds in turn.
fn run(component: &AdmittedComponent, shapes: &[&[u64]]) -> Result<Vec<Outcome>, SandboxError> {
    let settings = defaults(component)?;
    let learning_rate = settings.learning_rate();
    let values = |shape: &[u64], round: u64| -> Vec<f32> {
        (0..shape.iter().product::<u64>()).map(|index| sample(index as u32, round as u32)).collect()
    };
    let local = |shape: &&[u64]| LocalTensor {
        description: tensor(shape),
        settings: settings.clone(),
        parameters: values(shape, 0),
    };
    let largest = shapes.iter().map(|shape| shape.iter().product()).max().unwrap_or(1);
    let mut training = LocalTraining::new(component, shapes.iter().map(local).collect(), largest)?;
    let whole: Vec<bool> =
        (0..shapes.len()).map(|index| training.plan(index).granularity == Granularity::Tensor).collect();
    let rounds = |index: usize| if whole[index] { WHOLE_ROUNDS } else { ROUNDS };
    for round in 1..=WHOLE_ROUNDS {
        for index in (0..shapes.len()).filter(|index| round <= rounds(*index)) {
            training
                .round_of(index, &context(round, learning_rate), &values(shapes[index], round))
                .map_err(SandboxError::Trial)?;
        }
    }
    let fuel = training.take_most_fuel();
    let mut outcomes = Vec::with_capacity(shapes.len());
    for (index, whole) in whole.iter().copied().enumerate() {
        let last = context(rounds(index), learning_rate);
        let evaluation = training.evaluation(index, &last).map_err(SandboxError::Trial)?;
        let mut end = state(&training, index)?;
        end.extend(evaluation.into_iter().flat_map(f32::to_le_bytes));
        let geometry = training.plan(index).geometry;
        let work = if whole { matrix_work(geometry.rows, geometry.columns) } else { geometry.elements() };
        outcomes.push(Outcome { state: end, cost: (work, fuel), whole });
    }
    Ok(outcomes)
}

/// A tensor's parameters and slots.
fn state(training: &LocalTraining, tensor: usize) -> Result<Vec<u8>, SandboxError> {
    let mut state: Vec<u8> = training.parameters(tensor)?.into_iter().flat_map(f32::to_le_bytes).collect();
    for slot in &training.plan(tensor).slots {
        let slot = training.slot(tensor, &slot.name)?.unwrap_or_default();
        slot.into_iter().for_each(|bytes| state.extend_from_slice(bytes));
    }
    Ok(state)
}

fn defaults(component: &AdmittedComponent) -> Result<crate::settings::Settings, SandboxError> {
    component
        .configure(None, &[])
        .map_err(|error| SandboxError::Description(format!("its defaults are not acceptable: {error}")))
}

fn tensor(shape: &[u64]) -> TensorDescription {
    // Apart from each other, as a server's tensors are.
    let identity = shape.iter().product();
    TensorDescription {
        name: format!("trial{shape:?}"),
        shape: shape.to_vec(),
        identity,
        ..TensorDescription::default()
    }
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
