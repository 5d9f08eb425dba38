//! A component in the sandbox, as a server runs it: resident, metered, checked, able to take a round back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stepbox_guest::bench;
use stepbox_sandbox::{AdmittedComponent, LocalTensor, LocalTraining, TensorDescription};

use super::Tensor;
use crate::BenchError;
use crate::turns::Contestant;
use crate::update::{Exchanging, SLICE_ELEMENTS, context};

/// A tensor that a component trains.
pub struct Resident {
    training: Training,
    gradient: Arc<Vec<f32>>,
    learning_rate: f32,
    rounds: u64,
}

/// In the way that a server goes about it.
enum Training {
    /// One pass: gradients' memory becomes that of new parameters.
    Exchanging(Exchanging),
    /// Several passes, or rows.
    ByPhases(LocalTraining),
}

impl Resident {
    /// A tensor before its first round, with the component's default hyperparameters.
    ///
    /// # Errors
    /// The component refuses it, or misbehaves.
    pub fn new(component: &AdmittedComponent, tensor: &Tensor) -> Result<Self, BenchError> {
        let settings = component.configure(None, &[])?;
        let learning_rate = settings.learning_rate() as f32;
        let description =
            TensorDescription { name: "tensor".into(), shape: tensor.shape.clone(), ..TensorDescription::default() };
        let parameters = bench::parameters(tensor.elements());
        let training = if component.plan(&settings, &description)?.takes_exchange() {
            Training::Exchanging(Exchanging::new(component, &settings, &description, &parameters, 1)?)
        } else {
            let local = LocalTensor { description, settings, parameters };
            Training::ByPhases(LocalTraining::new(component, vec![local], SLICE_ELEMENTS as u64)?)
        };
        Ok(Self { training, gradient: Arc::clone(&tensor.gradient), learning_rate, rounds: 0 })
    }

    /// A digest of the parameters' bits.
    ///
    /// # Errors
    /// The component misbehaved.
    pub fn digest(&self) -> Result<u64, BenchError> {
        Ok(bench::digest(&match &self.training {
            Training::Exchanging(exchanging) => exchanging.parameters()?,
            Training::ByPhases(training) => training.parameters(0)?,
        }))
    }
}

impl Contestant for Resident {
    fn steps(&mut self, count: u32) -> Result<Duration, BenchError> {
        let mut time = Duration::ZERO;
        for _ in 0..count {
            self.rounds += 1;
            let context = context(self.rounds, self.learning_rate, 1);
            if let Training::Exchanging(exchanging) = &mut self.training {
                // A connection puts it there.
                exchanging.receive(&[&self.gradient]);
            }
            let since = Instant::now();
            match &mut self.training {
                Training::Exchanging(exchanging) => exchanging.protected(&context)?,
                Training::ByPhases(training) => training.round(&context, &[&self.gradient])?,
            }
            time += since.elapsed();
        }
        Ok(time)
    }
}
