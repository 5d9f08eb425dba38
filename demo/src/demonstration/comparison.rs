//! What the sandbox costs: the deployed component against the same optimizer compiled natively.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use optimizer_adamw::AdamW;
use stepbox_guest::{Context as NativeContext, Native, Tensor};
use stepbox_sandbox::{InstancePool, Sandbox, SandboxConfig, SliceId, StepContext, TensorDescription};

use crate::random::Stream;

/// Parameters of the tensor that is updated: 4 MiB, beyond a core's own caches, as real layers are.
pub const PARAMETERS: usize = 1 << 20;

/// Gradients whose mean is taken in each update, as in the demonstration's training.
const GRADIENTS: u64 = 4;

/// Pairs of updates that are timed; odd, so that there is a median.
const PAIRS: usize = 31;

/// Pairs before them, to fill caches and reach the processor's clock.
const WARM_UP_PAIRS: usize = 5;

const LEARNING_RATE: f32 = 1e-3;

/// Median durations of one update of [`PARAMETERS`] parameters: the mean of four gradients and a step of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// In the sandbox: metered, with an undo log, with the result checked.
    pub sandboxed: Duration,
    /// Native: none of that.
    pub native: Duration,
}

impl Comparison {
    /// How many times as long the sandbox takes.
    pub fn ratio(&self) -> f64 {
        self.sandboxed.as_secs_f64() / self.native.as_secs_f64()
    }
}

/// Times both, in turn, on the same gradients.
///
/// # Errors
/// The component is not admitted, a step failed, or the two do not give the same bits.
pub(super) fn compare(component: &Path) -> Result<Comparison> {
    let bytes = fs::read(component).with_context(|| component.display().to_string())?;
    let first_values = numbers(0);
    let gradients: Vec<Vec<u8>> = (1..=GRADIENTS).map(|seed| to_bytes(&numbers(seed))).collect();
    let mut sandboxed = Sandboxed::new(&bytes, &first_values)?;
    let mut native = Natively::new(&first_values);

    let (mut sandboxed_times, mut native_times) = (Vec::new(), Vec::new());
    for pair in 0..WARM_UP_PAIRS + PAIRS {
        let step = pair as u64 + 1;
        let one = |native: &mut Natively| timed(|| native.update(&gradients));
        let other = |sandboxed: &mut Sandboxed| timed(|| sandboxed.update(step, &gradients));
        // Whoever comes second finds the gradients in the cache: take turns.
        let (native_time, sandboxed_time) = if pair % 2 == 0 {
            let first = one(&mut native)?;
            (first, other(&mut sandboxed)?)
        } else {
            let first = other(&mut sandboxed)?;
            (one(&mut native)?, first)
        };
        if pair >= WARM_UP_PAIRS {
            native_times.push(native_time);
            sandboxed_times.push(sandboxed_time);
        }
    }
    ensure!(
        sandboxed.parameters()? == to_bytes(native.tensor.parameters()),
        "component and native code gave different bits, so that their times cannot be compared"
    );
    Ok(Comparison { sandboxed: median(sandboxed_times), native: median(native_times) })
}

/// A server's longest slice, in elements.
const SLICE: usize = 1 << 18;

struct Sandboxed {
    pool: InstancePool,
    slices: Vec<SliceId>,
}

impl Sandboxed {
    fn new(component: &[u8], first_values: &[f32]) -> Result<Self> {
        let admitted = Sandbox::new(SandboxConfig::default())?.admit(component)?;
        let settings = admitted.configure(None, &[])?;
        let tensor =
            TensorDescription { name: "tensor".into(), shape: vec![PARAMETERS as u64], ..TensorDescription::default() };
        let plan = Arc::new(admitted.plan(&settings, &tensor)?);
        let mut pool = admitted.pool();
        let mut slices = Vec::new();
        for (index, values) in first_values.chunks(SLICE).enumerate() {
            let slice = pool.bind(&tensor, &plan, &settings, (index * SLICE) as u64, values.len() as u32)?;
            pool.load(slice, &to_bytes(values))?;
            slices.push(slice);
        }
        Ok(Self { pool, slices })
    }

    fn update(&mut self, step: u64, gradients: &[Vec<u8>]) -> Result<()> {
        let context = StepContext {
            step,
            tensor_step: step,
            learning_rate: LEARNING_RATE,
            peak_learning_rate: LEARNING_RATE,
            contributors: GRADIENTS as u32,
            staleness: 0,
            loss: None,
            seed: 0,
        };
        for (index, slice) in self.slices.iter().enumerate() {
            self.pool.step(*slice, &context, &mut |range, out| {
                let start = index * SLICE;
                let range = (start + range.start) * size_of::<f32>()..(start + range.end) * size_of::<f32>();
                let parts: Vec<&[u8]> = gradients.iter().map(|gradient| &gradient[range.clone()]).collect();
                stepbox_reduce::mean_into(&parts, out).expect("the pool asks for as many elements as it has room for");
            })?;
        }
        // As in a server: all slices of a tensor have stepped before any step is kept.
        for slice in &self.slices {
            self.pool.commit(*slice);
        }
        Ok(())
    }

    fn parameters(&self) -> Result<Vec<u8>> {
        let mut parameters = vec![0; PARAMETERS * size_of::<f32>()];
        for (slice, part) in self.slices.iter().zip(parameters.chunks_mut(SLICE * size_of::<f32>())) {
            self.pool.read_parameters(*slice, part)?;
        }
        Ok(parameters)
    }
}

struct Natively {
    tensor: Native<AdamW>,
    mean: Vec<f32>,
    step: u64,
}

impl Natively {
    fn new(first_values: &[f32]) -> Self {
        let tensor = Tensor { name: "tensor".into(), shape: vec![PARAMETERS as u64], ..Tensor::default() };
        let tensor = Native::of_tensor(AdamW::default(), tensor, first_values.to_vec()).unchecked();
        Self { tensor, mean: vec![0.0; PARAMETERS], step: 0 }
    }

    fn update(&mut self, gradients: &[Vec<u8>]) -> Result<()> {
        self.step += 1;
        let parts: Vec<&[u8]> = gradients.iter().map(Vec::as_slice).collect();
        stepbox_reduce::mean_into(&parts, &mut self.mean)?;
        let context = NativeContext {
            step: self.step,
            tensor_step: self.step,
            learning_rate: LEARNING_RATE,
            peak_learning_rate: LEARNING_RATE,
            contributors: GRADIENTS as u32,
            staleness: 0,
            loss: None,
            seed: 0,
        };
        self.tensor.round_in(&context, &self.mean);
        Ok(())
    }
}

fn numbers(seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed);
    (0..PARAMETERS as u64).map(|position| stream.symmetric(position)).collect()
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
