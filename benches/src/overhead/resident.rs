//! A component in the sandbox, as a server runs it: resident, metered, checked, able to take a round back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stepbox_guest::bench;
use stepbox_sandbox::{AdmittedComponent, LocalTensor, LocalTraining, StepContext, TensorDescription};

use super::Tensor;
use crate::BenchError;
use crate::turns::Contestant;

/// The longest slice a server cuts, in elements, where a tensor is not visited whole.
pub(super) const SLICE_ELEMENTS: u64 = 1 << 18;

/// A tensor that a component trains.
pub struct Resident {
    training: LocalTraining,
    gradient: Arc<Vec<f32>>,
    learning_rate: f64,
    rounds: u64,
}

impl Resident {
    /// A tensor before its first round, with the component's default hyperparameters.
    ///
    /// # Errors
    /// The component refuses it, or misbehaves.
    pub fn new(component: &AdmittedComponent, tensor: &Tensor) -> Result<Self, BenchError> {
        let settings = component.configure(None, &[])?;
        let learning_rate = settings.learning_rate();
        let description =
            TensorDescription { name: "tensor".into(), shape: tensor.shape.clone(), ..TensorDescription::default() };
        let parameters = bench::parameters(tensor.elements());
        let local = LocalTensor { description, settings, parameters };
        let training = LocalTraining::new(component, vec![local], SLICE_ELEMENTS)?;
        Ok(Self { training, gradient: Arc::clone(&tensor.gradient), learning_rate, rounds: 0 })
    }

    /// A digest of the parameters' bits.
    ///
    /// # Errors
    /// The component misbehaved.
    pub fn digest(&self) -> Result<u64, BenchError> {
        Ok(bench::digest(&self.training.parameters(0)?))
    }
}

impl Contestant for Resident {
    fn steps(&mut self, count: u32) -> Result<Duration, BenchError> {
        let rate = self.learning_rate as f32;
        let since = Instant::now();
        for _ in 0..count {
            self.rounds += 1;
            let context = StepContext {
                step: self.rounds,
                tensor_step: self.rounds,
                learning_rate: rate,
                peak_learning_rate: rate,
                contributors: 1,
                staleness: 0,
                loss: Some(1.0),
                seed: 0,
            };
            self.training.round(&context, &[&self.gradient])?;
        }
        Ok(since.elapsed())
    }
}
