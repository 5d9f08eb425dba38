//! How long it takes from a signed file on disk to the first step of what is in it: for a server that has never had it,
//! and for one that was restarted.
//!
//! Each repetition does what a server does that has just been started: it makes an engine, opens its cache, reads file and
//! trust store, verifies, admits, plans and binds a tensor, and steps. Cold, the cache's directory is empty (and gets its
//! entry, which is part of the time); cached, it is the one that the cold repetition right before has left. Engine, cache
//! and instances are new each time, the process is not: its first repetition, which finds none of its own code in the
//! processor's caches, is among those that the spread is of.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stepbox_sandbox::{
    Broker, BrokerError, CacheError, CompileCache, Compiler, CompilerLimits, DEFAULT_CACHE_BYTES,
    DEFAULT_CACHE_ENTRIES, LocalTensor, LocalTraining, Origin, Sandbox, SandboxConfig, SandboxError, StepContext,
    StepError, TensorDescription,
};
use stepbox_trust::{KeyError, SignError, SigningKey, TrustError, TrustStore, TrustStoreError, sign};
use thiserror::Error;

use crate::{Goal, Row, Spread};

/// Parameters of the tensor that is stepped: a small layer.
const PARAMETERS: usize = 1 << 16;

/// What admission may take of a component never seen before, in milliseconds.
const COLD_GOAL: f64 = 400.0;

/// What it may take of one that the cache has, in milliseconds.
const CACHED_GOAL: f64 = 20.0;

/// Why a measurement was not possible.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdmissionError {
    /// The component was not admitted, or got no room.
    #[error("{0}")]
    Sandbox(#[from] SandboxError),
    /// Its own defaults do not fit.
    #[error("{0}")]
    Settings(#[from] stepbox_sandbox::SettingsError),
    /// The step failed.
    #[error("{0}")]
    Step(#[from] StepError),
    /// The program that compiles cannot be started.
    #[error("{0}")]
    Compiler(#[from] BrokerError),
    /// A cache in a new directory cannot be used.
    #[error("{0}")]
    Cache(#[from] CacheError),
    /// A temporary directory cannot be used.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// The component cannot be signed.
    #[error("{0}")]
    Sign(#[from] SignError),
    /// No key could be made.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The trust store cannot be read.
    #[error("{0}")]
    TrustStore(#[from] TrustStoreError),
    /// What was just signed is not trusted.
    #[error("{0}")]
    Trust(#[from] TrustError),
    /// The cache was not used where it should have been, so that the times say nothing.
    #[error("the component came from elsewhere than the measurement is of: {0}")]
    OtherOrigin(Origin),
}

/// What one repetition took.
struct Stages {
    read_and_verify: Duration,
    code: Duration,
    trial: Duration,
    /// Starting the program that compiles, engine, cache, checks, linking, description.
    rest_of_admission: Duration,
    first_step: Duration,
    total: Duration,
}

/// Times admissions of a component, cold and cached in turn, in milliseconds. `compiler` is a program that calls
/// [`compile_process`](stepbox_sandbox::compile_process); without it this process compiles.
///
/// # Errors
/// The component cannot be admitted, or no temporary directory can be used.
pub fn measure(
    name: &str,
    component: &[u8],
    compiler: Option<&Path>,
    repetitions: usize,
) -> Result<Vec<Row>, AdmissionError> {
    let (mut cold, mut cached) = (Vec::new(), Vec::new());
    for _ in 0..repetitions.max(1) {
        let folder = tempfile::tempdir()?;
        publish(component, folder.path())?;
        cold.push(restarted_server(folder.path(), compiler, |origin| matches!(origin, Origin::Compiled(Some(_))))?);
        cached.push(restarted_server(folder.path(), compiler, |origin| *origin == Origin::Cached)?);
    }
    let ratios = cold.iter().zip(&cached).map(|(cold, cached)| cached.total.as_secs_f64() / cold.total.as_secs_f64());
    let ratio = Spread::of(ratios.collect()).median;
    let mut rows = rows(name, "cold", "compile", &cold, COLD_GOAL);
    let baseline = rows.last().map_or(0.0, |row| row.value);
    rows.extend(self::rows(name, "cached", "authenticate and load code", &cached, CACHED_GOAL));
    if let Some(total) = rows.pop() {
        rows.push(total.against("cold", baseline, ratio));
    }
    Ok(rows)
}

const COMPONENT: &str = "component.wasm";
const TRUST: &str = "publishers.toml";

/// Signs a component with a new key and has the folder's trust store trust it.
fn publish(component: &[u8], folder: &Path) -> Result<(), AdmissionError> {
    let key = SigningKey::generate()?;
    fs::write(folder.join(COMPONENT), sign(component, "component", "1.0.0", &key)?)?;
    let trust = format!("[[publisher]]\nname = 'Benchmark'\npublic_key = '{}'\n[end]\n", key.public_key());
    Ok(fs::write(folder.join(TRUST), trust)?)
}

fn restarted_server(
    folder: &Path,
    compiler: Option<&Path>,
    expected: impl Fn(&Origin) -> bool,
) -> Result<Stages, AdmissionError> {
    let start = Instant::now();
    let compiler = match compiler {
        Some(program) => Compiler::Broker(Arc::new(Broker::start_program(program, CompilerLimits::default())?)),
        None => Compiler::InProcess,
    };
    let compiler_started = start.elapsed();
    let file = fs::read(folder.join(COMPONENT))?;
    let verified = TrustStore::load(folder.join(TRUST))?.verify(file)?;
    let read_and_verify = start.elapsed() - compiler_started;

    let cache = CompileCache::open(folder.join("compiled"), DEFAULT_CACHE_ENTRIES, DEFAULT_CACHE_BYTES)?;
    let admitted =
        Sandbox::new(SandboxConfig::default())?.with_compiler(compiler).with_cache(cache).admit(verified.bytes())?;
    let admission_ended = start.elapsed();

    let settings = admitted.configure(None, &[])?;
    let tensor = TensorDescription {
        name: "layer".into(),
        shape: vec![PARAMETERS as u64 / 256, 256],
        ..TensorDescription::default()
    };
    let learning_rate = settings.learning_rate() as f32;
    let context = StepContext {
        step: 1,
        tensor_step: 1,
        learning_rate,
        peak_learning_rate: learning_rate,
        contributors: 1,
        staleness: 0,
        loss: Some(1.0),
        seed: 0,
    };
    let layer = LocalTensor { description: tensor, settings, parameters: vec![0.5; PARAMETERS] };
    let mut training = LocalTraining::new(&admitted, vec![layer], PARAMETERS as u64)?;
    training.round(&context, &[&[0.25; PARAMETERS]])?;
    let total = start.elapsed();

    let admission = admitted.admission();
    if !expected(&admission.origin) {
        return Err(AdmissionError::OtherOrigin(admission.origin.clone()));
    }
    Ok(Stages {
        read_and_verify,
        code: admission.code,
        trial: admission.trial,
        rest_of_admission: admission_ended - read_and_verify - admission.code - admission.trial,
        first_step: total - admission_ended,
        total,
    })
}

/// A row for each stage; the total last.
fn rows(name: &str, how: &str, code: &str, repetitions: &[Stages], goal: f64) -> Vec<Row> {
    let row = |what: &str, stage: fn(&Stages) -> Duration| {
        let milliseconds = repetitions.iter().map(|stages| stage(stages).as_secs_f64() * 1e3).collect();
        Row::new("admission", format!("{name}, {how}: {what}"), "ms", Spread::of(milliseconds))
    };
    vec![
        row("read and verify", |stages| stages.read_and_verify),
        row(code, |stages| stages.code),
        row("trial", |stages| stages.trial),
        row("engine, checks, link, describe", |stages| stages.rest_of_admission),
        row("plan, bind, first step of 65,536 parameters", |stages| stages.first_step),
        row("file to first step", |stages| stages.total).goal(Goal::ValueAtMost(goal)),
    ]
}
