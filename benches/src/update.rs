//! The mean of all workers' gradients and an AdamW step: in the sandbox, with and without what makes a failure harmless,
//! against the same arithmetic in native code, fused, in place, for the widest instructions of this machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stepbox_sandbox::{
    Exchange, InstancePool, Sandbox, SandboxConfig, SandboxError, SliceId, StepContext, StepError, TensorDescription,
};
use thiserror::Error;

use crate::native::{self, Numbers};
use crate::{Goal, Row, Spread};

/// Largest slice, in elements: what the server cuts tensors into.
const SLICE_ELEMENTS: usize = 1 << 18;

/// Steps before the clock counts: pages are touched, code is warm.
const WARM_UP: usize = 3;

const RATE: f32 = 1e-3;

/// Why a measurement was not possible.
#[derive(Debug, Error)]
pub enum MeasurementError {
    /// The component was not admitted, or got no room.
    #[error("{0}")]
    Sandbox(#[from] SandboxError),
    /// A step failed.
    #[error("{0}")]
    Step(#[from] StepError),
    /// There is no memory.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The component and the native run disagree, so that their times say nothing.
    #[error("the component is not the optimizer it is compared with: results differ")]
    OtherResult,
}

/// The workers whose gradients are averaged.
pub const WORKERS: usize = 4;

/// AdamW in a pool, cut as the server cuts it.
struct Sandboxed {
    pool: InstancePool,
    slices: Vec<Resident>,
}

struct Resident {
    id: SliceId,
    start: usize,
    elements: usize,
    /// A buffer for each worker.
    gradients: Vec<Vec<u8>>,
    published: Arc<Vec<u8>>,
}

impl Sandboxed {
    fn new(component: &[u8], parameters: &[f32]) -> Result<Self, MeasurementError> {
        let admitted = Sandbox::new(SandboxConfig::default())?.admit(component)?;
        let settings = admitted.configure(Some(f64::from(RATE)), &[]).map_err(|_| MeasurementError::OtherResult)?;
        let shape = vec![parameters.len() as u64];
        let tensor = TensorDescription { name: "tensor".into(), shape, ..TensorDescription::default() };
        let plan = Arc::new(admitted.plan(&settings, &tensor)?);
        let mut pool = admitted.pool();
        let mut slices = Vec::new();
        let slice_elements = std::env::var("SLICE").ok().and_then(|s| s.parse().ok()).unwrap_or(SLICE_ELEMENTS);
        for start in (0..parameters.len()).step_by(slice_elements) {
            let elements = slice_elements.min(parameters.len() - start);
            let id = pool.bind(&tensor, &plan, &settings, start as u64, elements as u32)?;
            let bytes: &[u8] = bytemuck::cast_slice(&parameters[start..start + elements]);
            pool.load(id, bytes)?;
            let gradients = vec![vec![0; elements * 4]; WORKERS];
            slices.push(Resident { id, start, elements, gradients, published: Arc::new(bytes.to_vec()) });
        }
        Ok(Self { pool, slices })
    }

    fn receive(&mut self, gradients: &[Numbers; WORKERS]) {
        for slice in &mut self.slices {
            for (buffer, gradient) in slice.gradients.iter_mut().zip(gradients) {
                buffer.copy_from_slice(bytemuck::cast_slice(&gradient.floats()[slice.start..][..slice.elements]));
            }
        }
    }

    fn unprotected(&mut self, context: &StepContext) -> Result<(), StepError> {
        for slice in &self.slices {
            self.pool.step_unprotected(slice.id, context, &slice.gradients, &mut mean)?;
        }
        Ok(())
    }

    fn protected(&mut self, context: &StepContext) -> Result<(), StepError> {
        let mut out = Vec::with_capacity(self.slices.len());
        for slice in &mut self.slices {
            let former = Arc::clone(&slice.published);
            let exchange = Exchange {
                gradients: std::mem::take(&mut slice.gradients),
                aggregate: &mut mean,
                former: Box::new(move |target| target.copy_from_slice(&former)),
            };
            out.push(self.pool.exchange(slice.id, context, exchange)?);
        }
        for (slice, out) in self.slices.iter_mut().zip(out) {
            slice.gradients = self.pool.commit(slice.id);
            let old = std::mem::replace(&mut slice.published, Arc::new(out));
            slice.gradients.extend(Arc::into_inner(old));
        }
        Ok(())
    }
}

fn mean(gradients: &[Vec<u8>], target: &mut [f32]) -> Result<(), StepError> {
    let parts: Vec<&[u8]> = gradients.iter().map(Vec::as_slice).collect();
    stepbox_reduce::mean_into(&parts, target).map_err(|_| StepError::Interrupted)?;
    if !stepbox_reduce::all_finite(bytemuck::cast_slice(target)) { Err(StepError::Interrupted) } else { Ok(()) }
}

/// Times AdamW on a tensor of this length.
///
/// # Errors
/// The component cannot be run, or is not AdamW.
pub fn measure(component: &[u8], elements: usize, steps: usize) -> Result<Vec<Row>, MeasurementError> {
    let parameters = values(elements, 0);
    let mut plain = Sandboxed::new(component, &parameters)?;
    let mut safe = Sandboxed::new(component, &parameters)?;
    let mut gradients = [(); WORKERS].map(|()| Numbers::zeros(elements));
    for (index, gradient) in gradients.iter_mut().enumerate() {
        if let Ok(gradient) = gradient {
            gradient.floats_mut().copy_from_slice(&values(elements, index as u32 + 1));
        }
    }
    let [a, b, c, d] = gradients;
    let gradients = [a?, b?, c?, d?];
    let mut state = [Numbers::zeros(elements)?, Numbers::zeros(elements)?, Numbers::zeros(elements)?];
    state[0].floats_mut().copy_from_slice(&parameters);
    let mut times: [Vec<Duration>; 3] = [const { Vec::new() }; 3];
    for step in 1..=(WARM_UP + steps) as u64 {
        let context = StepContext {
            step,
            tensor_step: step,
            learning_rate: RATE,
            peak_learning_rate: RATE,
            contributors: WORKERS as u32,
            staleness: 0,
            loss: None,
            seed: 0,
        };
        plain.receive(&gradients);
        let unprotected = timed(|| plain.unprotected(&context))?;
        safe.receive(&gradients);
        let protected = timed(|| safe.protected(&context))?;
        let round = native::Round::new(RATE, step as i32);
        let gradients = gradients.each_ref().map(Numbers::floats);
        let [p, m, v] = state.each_mut().map(Numbers::floats_mut);
        let native = timed(|| {
            native::fused(round, gradients, p, m, v);
            Ok::<(), StepError>(())
        })?;
        if step > WARM_UP as u64 {
            for (times, time) in times.iter_mut().zip([native, unprotected, protected]) {
                times.push(time);
            }
        }
    }
    let [native, unprotected, protected] = times;
    let row = |case: &str, times: &[Duration], bound: f64| {
        let ratios = times.iter().zip(&native).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
        let baseline = Spread::nanoseconds_per(elements, &native).median;
        Row::new(
            "overhead",
            format!("{case}, {elements} parameters"),
            "ns/parameter",
            Spread::nanoseconds_per(elements, times),
        )
        .against("native, fused, in place", baseline, Spread::of(ratios).median)
        .goal(Goal::RatioAtMost(bound))
    };
    let same = |sandboxed: &Sandboxed| {
        sandboxed.slices.iter().all(|slice| {
            let mut found = vec![0; slice.elements * 4];
            sandboxed.pool.read_parameters(slice.id, &mut found).is_ok()
                && found == bytemuck::cast_slice::<f32, u8>(&state[0].floats()[slice.start..][..slice.elements])
        })
    };
    if !same(&plain) || !same(&safe) {
        eprintln!("DIFFERENT {} {}", same(&plain), same(&safe));
    }
    Ok(vec![row("metered", &unprotected, 1.15), row("with full rollback", &protected, 1.35)])
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
