//! What the project's goals are about: the mean of four workers' gradients and AdamW, on one core.
//!
//! The component runs as on a server's shard thread, slice by slice: gradients are added up natively into its memory, the
//! component steps, with fuel and epochs. With full rollback it is all that a server does ([`InstancePool::exchange`]): what
//! the slots were is kept, everything the component leaves is looked at, new parameters are copied out to be published.
//! Against both stands native code for the same arithmetic ([`crate::native`]), which does none of that. Gradients are
//! put in place before each turn, while no clock runs: a round writes over their memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stepbox_guest::bench;
use stepbox_reduce::{Gradient, Reduction};
use stepbox_sandbox::{
    AdmittedComponent, Exchange, InstancePool, Sandbox, SandboxConfig, Settings, SliceId, StepContext, StepError,
    TensorDescription,
};

use crate::findings::count;
use crate::native::{Numbers, State};
use crate::{BenchError, Goal, Row, Spread};

/// The longest slice a server cuts, in elements.
pub(crate) const SLICE_ELEMENTS: usize = 1 << 18;

/// Turns before the clock counts: pages are touched, code is warm.
const WARM_UP: u64 = 3;

const RATE: f32 = 1e-3;

const WORKERS: u32 = 4;

/// What the baseline is called in a row.
const NATIVE: &str = "native code for this processor, one loop, in place";

/// Times AdamW on a tensor of this length, in this many turns. The goals are ratios: of the component with fuel and epochs,
/// and with full rollback.
///
/// # Errors
/// The component cannot be run, or ends with other bits than the native code.
pub fn measure(component: &[u8], elements: usize, turns: u64, goals: [Option<f64>; 2]) -> Result<Vec<Row>, BenchError> {
    let parameters = bench::parameters(elements);
    let admitted = Sandbox::new(SandboxConfig::default())?.admit(component)?;
    let settings = admitted.configure(Some(f64::from(RATE)), &[])?;
    let tensor =
        TensorDescription { name: "tensor".into(), shape: vec![elements as u64], ..TensorDescription::default() };
    let new = || Exchanging::new(&admitted, &settings, &tensor, &parameters, WORKERS);
    let (mut metered, mut protected) = (new()?, new()?);
    let mut native = State::new(&parameters)?;
    let mut numbers = [0, 1, 2, 3].map(|place| Numbers::zeros(elements, place));
    for (gradient, place) in numbers.iter_mut().flatten().zip(0..) {
        let values = bench::gradient(elements);
        // Another one for each worker, of the same numbers.
        gradient.floats_mut().iter_mut().zip(values.iter().cycle().skip(place * 7)).for_each(|(to, from)| *to = *from);
    }
    let [first, second, third, fourth] = numbers;
    let numbers = [first?, second?, third?, fourth?];
    let gradients = numbers.each_ref().map(Numbers::floats);

    let mut times = [const { Vec::new() }; 3];
    for turn in 1..=WARM_UP + turns {
        let context = context(turn, RATE, WORKERS);
        metered.receive(&gradients);
        let in_metered = timed(|| metered.unprotected(&context))?;
        protected.receive(&gradients);
        let in_protected = timed(|| protected.protected(&context))?;
        let in_native = timed(|| {
            native.round(&bench::context(turn, RATE), gradients);
            Ok(())
        })?;
        if turn > WARM_UP {
            let seconds = [in_native, in_metered, in_protected].map(|time| time.as_secs_f64());
            times.iter_mut().zip(seconds).for_each(|(times, time)| times.push(time * 1e9 / elements as f64));
        }
    }
    for (sandboxed, what) in [(&metered, "the component"), (&protected, "the component with full rollback")] {
        if sandboxed.parameters()? != native.parameters.floats() {
            return Err(BenchError::OtherBits { what: what.into(), other: "the native code".into() });
        }
    }

    let [native, metered, protected] = times;
    let row = |what: &str, values: Vec<f64>, bound: Option<f64>| {
        let case = format!("adamw and the mean of 4, {} parameters, {what}", count(elements));
        let row = Row::new("overhead", case, "ns/parameter", Spread::of(values.clone()));
        let row = row.against_turns(NATIVE, &values, native.clone());
        bound.map_or(row.clone(), |bound| row.goal(Goal::RatioAtMost(bound)))
    };
    Ok(vec![row("fuel and epochs", metered, goals[0]), row("full rollback", protected, goals[1])])
}

/// A tensor in a pool, cut as a server cuts it, whose rounds are exchanges.
pub(crate) struct Exchanging {
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

impl Exchanging {
    /// A tensor before its first round. The component's plan for it takes exchanges.
    pub(crate) fn new(
        component: &AdmittedComponent,
        settings: &Settings,
        tensor: &TensorDescription,
        parameters: &[f32],
        workers: u32,
    ) -> Result<Self, BenchError> {
        let plan = Arc::new(component.plan(settings, tensor)?);
        let mut pool = component.pool();
        let mut slices = Vec::new();
        // Where tensors are visited whole there is one slice.
        let longest = plan.slice_unit().map_or(parameters.len(), |_| SLICE_ELEMENTS);
        for (index, part) in parameters.chunks(longest).enumerate() {
            let (start, elements) = (index * longest, part.len());
            let id = pool.bind(tensor, &plan, settings, start as u64, elements as u32)?;
            let bytes: &[u8] = bytemuck::cast_slice(part);
            pool.load(id, bytes)?;
            let gradients = vec![vec![0; bytes.len()]; workers as usize];
            slices.push(Resident { id, start, elements, gradients, published: Arc::new(bytes.to_vec()) });
        }
        Ok(Self { pool, slices })
    }

    /// Puts gradients where a server's connections put them.
    pub(crate) fn receive(&mut self, gradients: &[&[f32]]) {
        for Resident { start, elements, gradients: buffers, .. } in &mut self.slices {
            for (buffer, gradient) in buffers.iter_mut().zip(gradients) {
                buffer.copy_from_slice(bytemuck::cast_slice(&gradient[*start..*start + *elements]));
            }
        }
    }

    fn unprotected(&mut self, context: &StepContext) -> Result<(), StepError> {
        self.slices
            .iter()
            .try_for_each(|slice| self.pool.step_unprotected(slice.id, context, &slice.gradients, &mut mean))
    }

    /// A round with all that a server does for safety.
    pub(crate) fn protected(&mut self, context: &StepContext) -> Result<(), StepError> {
        let mut published = Vec::with_capacity(self.slices.len());
        for slice in &mut self.slices {
            let former = Arc::clone(&slice.published);
            let exchange = Exchange {
                gradients: std::mem::take(&mut slice.gradients),
                aggregate: &mut mean,
                former: Box::new(move |parameters| parameters.copy_from_slice(&former)),
            };
            published.push(self.pool.exchange(slice.id, context, exchange)?);
        }
        for (slice, published) in self.slices.iter_mut().zip(published) {
            slice.gradients = self.pool.commit(slice.id);
            let former = std::mem::replace(&mut slice.published, Arc::new(published));
            slice.gradients.extend(Arc::into_inner(former));
        }
        Ok(())
    }

    pub(crate) fn parameters(&self) -> Result<Vec<f32>, BenchError> {
        let mut parameters = Vec::new();
        for slice in &self.slices {
            let start = parameters.len();
            parameters.resize(start + slice.elements, 0.0);
            self.pool.read_parameters(slice.id, bytemuck::cast_slice_mut(&mut parameters[start..]))?;
        }
        Ok(parameters)
    }
}

fn mean(gradients: &[Vec<u8>], target: &mut [f32]) -> Result<(), StepError> {
    let gradients: Vec<_> = gradients.iter().map(|bytes| Gradient::f32(bytes)).collect();
    // The gradients are finite and as long as the slice.
    Reduction::mean().reduce_into(&gradients, target).map_err(|_| StepError::Interrupted)
}

/// What an optimizer is told of a round.
pub(crate) fn context(round: u64, learning_rate: f32, contributors: u32) -> StepContext {
    StepContext {
        step: round,
        tensor_step: round,
        learning_rate,
        peak_learning_rate: learning_rate,
        contributors,
        staleness: 0,
        loss: Some(1.0),
        seed: 0,
    }
}

fn timed(run: impl FnOnce() -> Result<(), StepError>) -> Result<Duration, StepError> {
    let since = Instant::now();
    run()?;
    Ok(since.elapsed())
}
