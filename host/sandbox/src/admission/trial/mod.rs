//! The trial run at admission: does the optimizer keep its promises on tensors whose loss would hurt nobody, and what
//! does a step cost?

mod model;

use crate::contract::declarations::Granularity;
use crate::contract::settings::Settings;
use crate::error::SandboxError;
use crate::instance::component::AdmittedComponent;
use crate::instance::fuel::{FuelModel, matrix_work};
use crate::local::{LocalTensor, LocalTraining};
use model::{Chance, Kind, TrialJob, TrialTensor};

/// Rounds of the trial.
const ROUNDS: u64 = 3;

/// Rounds on tensors that are visited whole: some methods decompose matrices only every tenth round.
const WHOLE_ROUNDS: u64 = 11;

/// Runs the optimizer with its default settings and returns what a step costs.
///
/// Each tensor goes through its rounds twice: once alone, in an instance of its own, and once in one instance with another
/// tensor, in turn with it. Both must end the same, bit for bit. Seals tell where the step of one changes the other.
pub(crate) fn rehearse(component: &AdmittedComponent) -> Result<FuelModel, SandboxError> {
    let mut chance = Chance::from_system()?;
    let settings = component
        .configure(None, &[])
        .map_err(|error| SandboxError::Description(format!("its defaults are not acceptable: {error}")))?;
    let job = TrialJob::new(settings.learning_rate(), &mut chance);
    let trial = Trial { component, settings, job };
    let (mut elements, mut matrices) = (Vec::new(), Vec::new());
    for kind in [Kind::Vectors, Kind::Matrices] {
        let pair = TrialTensor::pair(kind, &mut chance);
        let pairs = match trial.granularity(&pair[0])? {
            Granularity::Elements => vec![pair],
            Granularity::Tensor => vec![TrialTensor::pair(Kind::WholeMatrices, &mut chance)],
            Granularity::TouchedRows => vec![pair, TrialTensor::pair(Kind::NarrowMatrices, &mut chance)],
        };
        for pair in pairs {
            let [low, high] = trial.alone_and_together(&pair)?;
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

/// What all tensors of a trial have in common.
struct Trial<'a> {
    component: &'a AdmittedComponent,
    settings: Settings,
    job: TrialJob,
}

impl Trial<'_> {
    fn granularity(&self, tensor: &TrialTensor) -> Result<Granularity, SandboxError> {
        Ok(self.component.plan(&self.settings, &tensor.description)?.granularity)
    }

    /// What two tensors end in when each is alone, which must be what they end in side by side.
    fn alone_and_together(&self, pair: &[TrialTensor; 2]) -> Result<[Outcome; 2], SandboxError> {
        let alone = [self.run(&pair[..1])?.remove(0), self.run(&pair[1..])?.remove(0)];
        for ((alone, together), tensor) in alone.iter().zip(self.run(pair)?).zip(pair) {
            if alone.state != together.state {
                // One of two promises is broken; a third run tells which.
                let again = self.run(std::slice::from_ref(tensor))?.remove(0);
                return Err(match again.state == alone.state {
                    true => SandboxError::Entangled { tensor: tensor.description.name.clone() },
                    false => SandboxError::NotDeterministic,
                });
            }
        }
        Ok(alone)
    }

    /// Takes tensors, all in one instance, through their rounds in turn.
    fn run(&self, tensors: &[TrialTensor]) -> Result<Vec<Outcome>, SandboxError> {
        let local = |tensor: &TrialTensor| LocalTensor {
            description: tensor.description.clone(),
            settings: self.settings.clone(),
            parameters: tensor.values(0),
        };
        let largest = tensors.iter().map(TrialTensor::elements).max().unwrap_or(1);
        let mut training = LocalTraining::new(self.component, tensors.iter().map(local).collect(), largest)?;
        let whole: Vec<bool> =
            (0..tensors.len()).map(|index| training.plan(index).granularity == Granularity::Tensor).collect();
        let rounds = |index: usize| if whole[index] { WHOLE_ROUNDS } else { ROUNDS };
        for round in 1..=WHOLE_ROUNDS {
            for index in (0..tensors.len()).filter(|index| round <= rounds(*index)) {
                training
                    .round_of(index, &self.job.context(round), &tensors[index].values(round))
                    .map_err(SandboxError::Trial)?;
            }
        }
        let fuel = training.take_most_fuel();
        let mut outcomes = Vec::with_capacity(tensors.len());
        for (index, whole) in whole.iter().copied().enumerate() {
            let last = self.job.context(rounds(index));
            let evaluation = training.evaluation(index, &last).map_err(SandboxError::Trial)?;
            let mut end = state(&training, index)?;
            end.extend(evaluation.into_iter().flat_map(f32::to_le_bytes));
            let geometry = training.plan(index).geometry;
            let work = if whole { matrix_work(geometry.rows, geometry.columns) } else { geometry.elements() };
            outcomes.push(Outcome { state: end, cost: (work, fuel), whole });
        }
        Ok(outcomes)
    }
}

/// What a tensor's rounds end in.
struct Outcome {
    /// Bit for bit.
    state: Vec<u8>,
    /// `(work, fuel)` of the most expensive step; of all tensors where there are several.
    cost: (u64, u64),
    whole: bool,
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
