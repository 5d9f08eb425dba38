//! Shared by the sandbox's tests: the built components, and tensors that train in a pool.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use stepbox_sandbox::{
    AdmittedComponent, InstancePool, Limits, Plan, Sandbox, SandboxConfig, SandboxError, Settings, SliceId,
    StepContext, StepError, TensorDescription,
};

/// The bytes of a component built by `cargo xtask guests`, such as `adamw` or `hostile/recursion`.
pub fn component(name: &str) -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/components").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask guests` first", path.display()))
}

pub fn sandbox(limits: Limits) -> Sandbox {
    Sandbox::new(SandboxConfig { limits, ..SandboxConfig::default() }).unwrap()
}

pub fn admit(name: &str) -> Result<AdmittedComponent, SandboxError> {
    sandbox(Limits::default()).admit(&component(name))
}

pub fn vector(elements: usize) -> TensorDescription {
    TensorDescription { name: "weights".into(), shape: vec![elements as u64], ..TensorDescription::default() }
}

pub fn context(round: u64, learning_rate: f64) -> StepContext {
    StepContext {
        step: round,
        tensor_step: round,
        learning_rate: learning_rate as f32,
        peak_learning_rate: learning_rate as f32,
        contributors: 4,
        staleness: 0,
        loss: None,
        seed: 7,
    }
}

/// A tensor that trains in a pool, as one slice.
pub struct Training {
    pub pool: InstancePool,
    pub slice: SliceId,
    pub plan: Arc<Plan>,
    pub settings: Settings,
    elements: usize,
    rounds: u64,
}

impl Training {
    pub fn new(component: &AdmittedComponent, settings: Settings, parameters: &[f32]) -> Self {
        let mut pool = component.pool();
        let tensor = vector(parameters.len());
        let plan = Arc::new(component.plan(&settings, &tensor).unwrap());
        let slice = pool.bind(&tensor, &plan, &settings, 0, parameters.len() as u32).unwrap();
        pool.load(slice, &bytes(parameters)).unwrap();
        Self { pool, slice, plan, settings, elements: parameters.len(), rounds: 0 }
    }

    pub fn round(&mut self, gradient: &[f32]) -> Result<(), StepError> {
        let rate = self.settings.learning_rate();
        let mut source = |range: Range<usize>, target: &mut [f32]| target.copy_from_slice(&gradient[range]);
        // The round stays open so that a test can roll it back; the preceding round is committed here.
        self.pool.commit(self.slice);
        self.pool.step(self.slice, &context(self.rounds + 1, rate), &mut source)?;
        self.rounds += 1;
        Ok(())
    }

    /// Parameters and slots, as 32-bit words.
    pub fn state(&self) -> Vec<Vec<u32>> {
        let mut parameters = vec![0; self.elements * 4];
        self.pool.read_parameters(self.slice, &mut parameters).unwrap();
        let slots = self.plan.slots.iter().map(|slot| self.pool.read_slot(self.slice, &slot.name).unwrap().unwrap());
        std::iter::once(&parameters[..]).chain(slots).map(words).collect()
    }
}

/// Converts little-endian bytes to 32-bit words.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Made-up values between -1 and 1, some of them zero or tiny.
pub fn values(elements: usize, seed: u32) -> Vec<f32> {
    let value = |index: usize| {
        let hash = (index as u32).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        let hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
        let value = (hash >> 8) as f32 / (1 << 23) as f32 - 1.0;
        match hash % 16 {
            0 => 0.0,
            1 => value * 1e-20,
            _ => value,
        }
    };
    (0..elements).map(value).collect()
}
