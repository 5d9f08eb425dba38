//! An AdamW step in the sandbox (fuel, deadline, undo log and output check on) against the same source run natively,
//! in place, without any of these. Both get a gradient that is copied to them block by block.

use std::sync::Arc;
use std::time::{Duration, Instant};

use optimizer_adamw::AdamW;
use serde::Serialize;
use stepbox_guest::Native;
use stepbox_sandbox::{Sandbox, SandboxConfig, SandboxError, StepContext, StepError, TensorDescription};
use thiserror::Error;

/// Largest slice, in elements: what the server cuts tensors into.
const SLICE_ELEMENTS: usize = 1 << 18;

/// Steps before the clock counts: pages are touched, code is warm.
const WARM_UP: usize = 3;

/// Why a measurement was not possible.
#[derive(Debug, Error)]
pub enum MeasurementError {
    /// The component was not admitted, or got no room.
    #[error("{0}")]
    Sandbox(#[from] SandboxError),
    /// A step failed.
    #[error("{0}")]
    Step(#[from] StepError),
    /// The component and the native run disagree, so that their times say nothing.
    #[error("the component is not the optimizer it is compared with: results differ")]
    OtherResult,
}

/// What a step costs in the sandbox and natively.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct UpdateFigures {
    /// Parameters stepped.
    pub parameters: usize,
    /// Timed steps of each kind, taken in turn.
    pub steps: usize,
    /// In the sandbox, nanoseconds a parameter.
    pub sandboxed: Spread,
    /// Natively, nanoseconds a parameter.
    pub native: Spread,
    /// Sandboxed over native, pair by pair.
    pub ratio: Spread,
}

use crate::Spread;

/// Times AdamW on tensors of these lengths (a model's keys): `component` in the sandbox, and the same source natively.
///
/// # Errors
/// The component cannot be run, or is not AdamW.
pub fn measure(component: &[u8], tensors: &[usize], steps: usize) -> Result<UpdateFigures, MeasurementError> {
    const RATE: f32 = 1e-3;
    let admitted = Sandbox::new(SandboxConfig::default())?.admit(component)?;
    let settings = admitted.configure(Some(f64::from(RATE)), &[]).map_err(|_| MeasurementError::OtherResult)?;
    let mut pool = admitted.pool();
    let mut native = Vec::new();
    let mut slices = Vec::new();
    let mut gradients = Vec::new();
    for (identity, &elements) in tensors.iter().enumerate() {
        let parameters = values(elements, 0);
        let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = TensorDescription {
            name: format!("tensor.{identity}"),
            shape: vec![elements as u64],
            identity: identity as u64,
            ..TensorDescription::default()
        };
        let plan = Arc::new(admitted.plan(&settings, &tensor)?);
        for start in (0..elements).step_by(SLICE_ELEMENTS) {
            let end = elements.min(start + SLICE_ELEMENTS);
            let slice = pool.bind(&tensor, &plan, &settings, start as u64, (end - start) as u32)?;
            pool.load(slice, &bytes[start * 4..end * 4])?;
            slices.push((slice, identity, start));
        }
        native.push(Native::new(AdamW::default(), parameters).unchecked());
        gradients.push(values(elements, 1));
    }
    let parameters: usize = tensors.iter().sum();
    let mut scratch: Vec<f32> = vec![0.0; tensors.iter().copied().max().unwrap_or(0)];

    let (mut sandboxed_times, mut native_times) = (Vec::new(), Vec::new());
    for step in 1..=(WARM_UP + steps) as u64 {
        let context = StepContext {
            step,
            tensor_step: step,
            learning_rate: RATE,
            peak_learning_rate: RATE,
            contributors: 1,
            staleness: 0,
            loss: None,
            seed: 0,
        };
        let sandboxed_time = timed(|| {
            for &(slice, identity, start) in &slices {
                let gradient = &gradients[identity][start..];
                pool.step(slice, &context, &mut |range, target| target.copy_from_slice(&gradient[range]))?;
                pool.commit(slice);
            }
            Ok::<_, StepError>(())
        })?;
        let native_time = timed(|| {
            for (native, gradient) in native.iter_mut().zip(&gradients) {
                let scratch = &mut scratch[..gradient.len()];
                scratch.copy_from_slice(gradient);
                native.round(RATE, scratch);
            }
            Ok::<_, StepError>(())
        })?;
        if step > WARM_UP as u64 {
            sandboxed_times.push(sandboxed_time);
            native_times.push(native_time);
        }
    }

    for &(slice, identity, start) in &slices {
        let expected = &native[identity].parameters()[start..];
        let mut result = vec![0; expected.len().min(SLICE_ELEMENTS) * 4];
        pool.read_parameters(slice, &mut result)?;
        let same = result.chunks_exact(4).zip(expected).all(|(bytes, value)| bytes == value.to_le_bytes());
        if !same {
            return Err(MeasurementError::OtherResult);
        }
    }
    let ratios = sandboxed_times.iter().zip(&native_times).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
    Ok(UpdateFigures {
        parameters,
        steps,
        sandboxed: Spread::nanoseconds_per(parameters, &sandboxed_times),
        native: Spread::nanoseconds_per(parameters, &native_times),
        ratio: Spread::of(ratios),
    })
}

fn timed<E>(run: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed())
}

/// Made-up values between -1 and 1.
fn values(elements: usize, seed: u32) -> Vec<f32> {
    let value = |index: usize| {
        let hash = (index as u32).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        let hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
        (hash >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..elements).map(value).collect()
}
