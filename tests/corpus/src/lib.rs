//! The hostile guests of `tests/hostile`, and what their attacks need: keys that train in a pool, and an honest
//! optimizer in the same sandbox that must not be affected.

#![forbid(unsafe_code)]

pub mod bombs;
pub mod surgery;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use stepbox_sandbox::{
    Accumulators, AdmittedComponent, Exchange, InstancePool, Limits, Plan, Sandbox, SandboxConfig, SandboxError,
    Settings, SliceId, StepContext, StepError, TensorDescription,
};

include!(concat!(env!("OUT_DIR"), "/guests.rs"));

/// The bytes of a component built by `cargo xtask guests`.
pub fn component(name: &str) -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/components").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask guests` first", path.display()))
}

impl Guest {
    /// The bytes of the guest's component.
    pub fn component(self) -> Vec<u8> {
        component(&format!("hostile/{}", self.name()))
    }

    /// The name in the guest's description, under which it has to be signed.
    pub fn own_name(self) -> &'static str {
        match self {
            Self::EarlyRiser
            | Self::EmptyProduct
            | Self::EndlessExports
            | Self::FalseAllocator
            | Self::FalseEvaluation
            | Self::FalseFarewell
            | Self::FalseOffsets
            | Self::HugeStrings
            | Self::JustShort
            | Self::LateSpender
            | Self::MemoryCreeper
            | Self::NotFinite
            | Self::OverflowingPlan
            | Self::TableCreeper
            | Self::Turncoat => "hostile",
            other => other.name(),
        }
    }

    /// The bytes of the guest's component with a trick selected.
    pub fn with_trick(self, trick: char) -> Vec<u8> {
        self.set_to(trick, self.component())
    }

    /// Selects a trick in the bytes of a component.
    pub fn set_to(self, trick: char, mut bytes: Vec<u8>) -> Vec<u8> {
        const MARK: &[u8] = b"trick of choice: ";
        let mark = bytes.windows(MARK.len()).position(|window| window == MARK);
        let mark = mark.unwrap_or_else(|| panic!("{} has no tricks to choose from", self.name()));
        bytes[mark + MARK.len()] = trick as u8;
        match self {
            Self::FalseAllocator => exchanged(bytes, "cabi_realloc", "evil_realloc"),
            Self::FalseFarewell => exchanged(bytes, &format!("cabi_post_{STEP}"), &format!("evil_post_{STEP}")),
            _ => bytes,
        }
    }
}

/// The core module's name of the step function.
const STEP: &str = "stepbox:optimizer/optimizer@0.1.0#step";

/// For a guest with two functions for the same purpose: puts the second in the place of the one that the server calls,
/// by exchanging their names in the exports of the core module.
fn exchanged(mut bytes: Vec<u8>, one: &str, other: &str) -> Vec<u8> {
    // With the length before the name: other names may start with this one.
    let written = |name: &str| [&[name.len() as u8], name.as_bytes()].concat();
    let [one, other] = [one, other].map(written);
    let find = |name: &[u8]| {
        let place = bytes.windows(name.len()).position(|window| window == name);
        place.unwrap_or_else(|| panic!("{} is not exported", String::from_utf8_lossy(name)))
    };
    for (place, name) in [(find(&one), &other), (find(&other), &one)] {
        bytes[place..place + name.len()].copy_from_slice(name);
    }
    bytes
}

/// A sandbox with these limits.
pub fn sandbox(limits: Limits) -> Sandbox {
    match Sandbox::new(SandboxConfig { limits, ..SandboxConfig::default() }) {
        Ok(sandbox) => sandbox,
        Err(error) => panic!("{error}"),
    }
}

/// Runs an attack in a sandbox in which an honest optimizer also trains. The optimizer must continue bit for bit as in
/// a separate sandbox.
pub fn beside_an_honest_one(limits: Limits, attack: impl FnOnce(&Sandbox)) {
    let honest = |sandbox: &Sandbox| match sandbox.admit(&component("adamw")) {
        Ok(admitted) => Keys::new(&admitted, &[5000, 300]),
        Err(error) => panic!("{error}"),
    };
    let sandbox = sandbox(limits.clone());
    let (mut disturbed, mut alone) = (honest(&sandbox), honest(&self::sandbox(limits)));
    let round = |keys: &mut Keys, round| (0..2).for_each(|key| keys.step(key, round).unwrap());
    round(&mut disturbed, 1);
    attack(&sandbox);
    round(&mut disturbed, 2);
    [1, 2].into_iter().for_each(|number| round(&mut alone, number));
    for key in 0..2 {
        assert!(disturbed.state(key).unwrap() == alone.state(key).unwrap(), "the attack affected the honest optimizer");
    }
}

/// Keys in one pool of instances, each with one slice, and their last published parameters.
pub struct Keys {
    pub pool: InstancePool,
    pub settings: Settings,
    keys: Vec<Key>,
}

struct Key {
    slice: SliceId,
    plan: Arc<Plan>,
    elements: usize,
    published: Arc<Vec<u8>>,
}

impl Keys {
    /// Creates vectors `key 0`, `key 1` and so on, with these numbers of elements.
    pub fn new(component: &AdmittedComponent, elements: &[usize]) -> Self {
        let mut keys = Self {
            pool: component.pool(),
            settings: component.configure(None, &[]).unwrap_or_else(|error| panic!("{error}")),
            keys: Vec::new(),
        };
        elements.iter().for_each(|elements| keys.add(component, &[*elements as u64]).unwrap());
        keys
    }

    /// Adds a key of this shape.
    pub fn add(&mut self, component: &AdmittedComponent, shape: &[u64]) -> Result<(), SandboxError> {
        let name = format!("key {}", self.keys.len());
        let tensor = TensorDescription { name, shape: shape.to_vec(), ..TensorDescription::default() };
        let elements = shape.iter().product::<u64>() as usize;
        let plan = Arc::new(component.plan(&self.settings, &tensor)?);
        let slice = self.pool.bind(&tensor, &plan, &self.settings, 0, elements as u32)?;
        let published = Arc::new(bytes(&values(elements, self.keys.len() as u32)));
        self.pool.load(slice, &published)?;
        self.keys.push(Key { slice, plan, elements, published });
        Ok(())
    }

    /// The slice of a key.
    pub fn slice(&self, key: usize) -> SliceId {
        self.keys[key].slice
    }

    /// Runs a round of a key as a server does: commits it if it succeeds, and rolls it back otherwise.
    pub fn step(&mut self, key: usize, round: u64) -> Result<(), StepError> {
        let outcome = self.run(key, round);
        let slice = self.keys[key].slice;
        match outcome {
            Ok(published) => {
                self.pool.commit(slice);
                self.keys[key].published = Arc::new(published);
                Ok(())
            }
            Err(error) => {
                self.pool.roll_back(slice);
                Err(error)
            }
        }
    }

    fn run(&mut self, key: usize, round: u64) -> Result<Vec<u8>, StepError> {
        let Key { slice, plan, elements, published } = &self.keys[key];
        let gradient = values(*elements, 1000 + round as u32);
        let context = context(round, self.settings.learning_rate());
        if self.pool.takes_exchange(*slice) {
            let former = Arc::clone(published);
            return self.pool.exchange(
                *slice,
                &context,
                Exchange {
                    gradients: vec![bytes(&gradient)],
                    aggregate: &mut |gradients, target| {
                        target.iter_mut().zip(floats(&gradients[0])).for_each(|(to, from)| *to = from);
                        Ok(())
                    },
                    former: Box::new(move |parameters| parameters.copy_from_slice(&former)),
                },
            );
        }
        let mut source = |range: Range<usize>, target: &mut [f32]| target.copy_from_slice(&gradient[range]);
        let mut accumulators = Accumulators::new(Arc::clone(plan));
        for phase in 0..plan.phases.len() as u32 {
            let given = self.pool.phase(*slice, phase, &context, &mut accumulators, &mut source)?;
            accumulators.add([given]);
        }
        let mut out = vec![0; elements * 4];
        let read = self.pool.read_parameters(*slice, &mut out);
        read.map(|()| out).map_err(|error| match error {
            SandboxError::Tampered(tampering) => StepError::Tampered(tampering),
            other => panic!("{other}"),
        })
    }

    /// The bytes of a key's parameters and slots.
    pub fn state(&self, key: usize) -> Result<Vec<Vec<u8>>, SandboxError> {
        let Key { slice, plan, elements, .. } = &self.keys[key];
        let mut parameters = vec![0; elements * 4];
        self.pool.read_parameters(*slice, &mut parameters)?;
        let mut state = vec![parameters];
        for slot in &plan.slots {
            state.push(self.pool.read_slot(*slice, &slot.name)?.unwrap_or_default().to_vec());
        }
        Ok(state)
    }

    /// The parameters of a key that workers saw last.
    pub fn published(&self, key: usize) -> &[u8] {
        &self.keys[key].published
    }

    /// Loads other parameters into a key, publishes them, and resets slots to their initial values.
    pub fn load(&mut self, key: usize, parameters: &[f32]) -> Result<(), SandboxError> {
        self.keys[key].published = Arc::new(bytes(parameters));
        self.load_published(key)
    }

    /// Loads the published parameters into a key and resets slots to their initial values, as a server does after it
    /// has found the key tampered with.
    pub fn load_published(&mut self, key: usize) -> Result<(), SandboxError> {
        let Key { slice, published, .. } = &self.keys[key];
        self.pool.load(*slice, published)
    }
}

/// The context of a step.
pub fn context(round: u64, learning_rate: f64) -> StepContext {
    StepContext {
        step: round,
        tensor_step: round,
        learning_rate: learning_rate as f32,
        peak_learning_rate: learning_rate as f32,
        contributors: 1,
        staleness: 0,
        loss: Some(0.5),
        seed: 7,
    }
}

/// Numbers as little-endian bytes.
pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Numbers from little-endian bytes.
pub fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// Made-up values between -1 and 1.
pub fn values(elements: usize, seed: u32) -> Vec<f32> {
    let value = |index: usize| {
        let hash = (index as u32).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        let hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
        (hash >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..elements).map(value).collect()
}
