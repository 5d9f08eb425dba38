//! AdamW behind the interface that one would write first: tensors go in as lists and come out as lists.
//!
//! It gets whatever does it good: metered like the sandbox's components and on the same engine settings, called for as many
//! elements at once as they are, its results kept as they come, and not looked at. (A round can be taken back for free here,
//! since the old lists are still there.)

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use stepbox_guest::bench;
use wasmtime::component::{Component, Func, Linker};
use wasmtime::{Config, Engine, Store};

use super::Tensor;
use crate::BenchError;
use crate::turns::Contestant;
use crate::update::SLICE_ELEMENTS;

/// What it is called in a row.
pub(super) const NAME: &str = "the same arithmetic in a component that takes and returns lists";

/// How often the epoch advances: as in the sandbox.
const EPOCH: Duration = Duration::from_millis(10);

/// Ticks that a call may take: a few seconds.
const DEADLINE_TICKS: u64 = 500;

/// Far more than a call uses; copies are charged by the byte.
const CALL_FUEL: u64 = 1 << 40;

/// The learning rate: AdamW's default.
const LEARNING_RATE: f32 = 1e-3;

/// Parameters, means, variances.
type Lists = (Vec<f32>, Vec<f32>, Vec<f32>);

/// The lists that go in need not be made first: they are lowered from where they lie.
type Arguments<'a> = (&'a [f32], &'a [f32], &'a [f32], &'a [f32], f32, u64);

/// A tensor that the component trains, which is the host's to keep between steps.
pub struct ListCopying {
    store: Store<()>,
    step: Func,
    runs: Vec<Lists>,
    gradient: Arc<Vec<f32>>,
    rounds: u64,
    /// Ends the thread that advances the epoch.
    _ticking: mpsc::Sender<()>,
}

impl ListCopying {
    /// A tensor before its first round.
    ///
    /// # Errors
    /// The component is another one.
    pub fn new(component: &[u8], tensor: &Tensor) -> Result<Self, BenchError> {
        Self::instantiated(component, tensor).map_err(|error| BenchError::ListCopying(format!("{error:#}")))
    }

    fn instantiated(component: &[u8], tensor: &Tensor) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config.consume_fuel(true).epoch_interruption(true).wasm_component_model(true);
        config.memory_reservation(4 << 30).memory_guard_size(32 << 20).memory_may_move(false);
        let engine = Engine::new(&config)?;
        let ticking = tick(&engine);
        let mut store = Store::new(&engine, ());
        store.set_fuel(CALL_FUEL)?;
        store.set_epoch_deadline(DEADLINE_TICKS);
        let component = Component::from_binary(&engine, component)?;
        let instance = Linker::new(&engine).instantiate(&mut store, &component)?;
        let step = instance.get_func(&mut store, "step").ok_or_else(|| wasmtime::Error::msg("it exports no `step`"))?;
        let parameters = bench::parameters(tensor.elements());
        let run = |run: &[f32]| (run.to_vec(), vec![0.0; run.len()], vec![0.0; run.len()]);
        let runs = parameters.chunks(SLICE_ELEMENTS).map(run).collect();
        Ok(Self { store, step, runs, gradient: Arc::clone(&tensor.gradient), rounds: 0, _ticking: ticking })
    }

    /// A digest of the parameters' bits.
    pub fn digest(&self) -> u64 {
        let parameters: Vec<f32> = self.runs.iter().flat_map(|(parameters, ..)| parameters.iter().copied()).collect();
        bench::digest(&parameters)
    }

    fn round(&mut self) -> wasmtime::Result<()> {
        self.rounds += 1;
        let Self { store, step, runs, gradient, rounds, .. } = self;
        for (run, gradient) in runs.iter_mut().zip(gradient.chunks(SLICE_ELEMENTS)) {
            store.set_fuel(CALL_FUEL)?;
            store.set_epoch_deadline(DEADLINE_TICKS);
            let (parameters, mean, variance) = &*run;
            let step = step.typed::<Arguments<'_>, (Lists,)>(&*store)?;
            let (lists,) = step.call(&mut *store, (parameters, gradient, mean, variance, LEARNING_RATE, *rounds))?;
            *run = lists;
        }
        Ok(())
    }
}

impl Contestant for ListCopying {
    fn steps(&mut self, count: u32) -> Result<Duration, BenchError> {
        let since = Instant::now();
        for _ in 0..count {
            self.round().map_err(|error| BenchError::ListCopying(format!("{error:#}")))?;
        }
        Ok(since.elapsed())
    }
}

/// Advances the engine's epoch until the other end is dropped.
fn tick(engine: &Engine) -> mpsc::Sender<()> {
    let (ticking, dropped) = mpsc::channel();
    let engine = engine.weak();
    std::thread::spawn(move || {
        while let (Err(mpsc::RecvTimeoutError::Timeout), Some(engine)) = (dropped.recv_timeout(EPOCH), engine.upgrade())
        {
            engine.increment_epoch();
        }
    });
    ticking
}
