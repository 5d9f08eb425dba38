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
    Exchange, InstancePool, Sandbox, SandboxConfig, SliceId, StepContext, StepError, TensorDescription,
};

use crate::findings::count;
use crate::native::{Numbers, Round, State};
use crate::{BenchError, Goal, Row, Spread};

/// The longest slice a server cuts, in elements.
const SLICE_ELEMENTS: usize = 1 << 18;

/// Turns before the clock counts: pages are touched, code is warm.
const WARM_UP: u64 = 3;

const RATE: f32 = 1e-3;

/// What the baseline is called in a row.
const NATIVE: &str = "native code for this processor, one loop, in place";

/// Times AdamW on a tensor of this length, in this many turns. The goals are ratios: of the component with fuel and epochs,
/// and with full rollback.
///
/// # Errors
/// The component cannot be run, or ends with other bits than the native code.
pub fn measure(component: &[u8], elements: usize, turns: u64, goals: [Option<f64>; 2]) -> Result<Vec<Row>, BenchError> {
    let parameters = bench::parameters(elements);
    let mut metered = Sandboxed::new(component, &parameters)?;
    let mut protected = Sandboxed::new(component, &parameters)?;
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
        let context = bench_context(turn);
        metered.receive(&gradients);
        let in_metered = timed(|| metered.unprotected(&context))?;
        protected.receive(&gradients);
        let in_protected = timed(|| protected.protected(&context))?;
        let in_native = timed(|| {
            native.round(Round::new(RATE, turn), gradients);
            Ok(())
        })?;
        if turn > WARM_UP {
            let seconds = [in_native, in_metered, in_protected].map(|time| time.as_secs_f64());
            times.iter_mut().zip(seconds).for_each(|(times, time)| times.push(time * 1e9 / elements as f64));
        }
    }
    for (sandboxed, what) in [(&metered, "the component"), (&protected, "the component with full rollback")] {
        if !sandboxed.has(native.parameters.floats()) {
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

/// AdamW in a pool, cut as a server cuts it.
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
    fn new(component: &[u8], parameters: &[f32]) -> Result<Self, BenchError> {
        let admitted = Sandbox::new(SandboxConfig::default())?.admit(component)?;
        let settings = admitted.configure(Some(f64::from(RATE)), &[])?;
        let shape = vec![parameters.len() as u64];
        let tensor = TensorDescription { name: "tensor".into(), shape, ..TensorDescription::default() };
        let plan = Arc::new(admitted.plan(&settings, &tensor)?);
        let mut pool = admitted.pool();
        let mut slices = Vec::new();
        for (index, part) in parameters.chunks(SLICE_ELEMENTS).enumerate() {
            let (start, elements) = (index * SLICE_ELEMENTS, part.len());
            let id = pool.bind(&tensor, &plan, &settings, start as u64, elements as u32)?;
            let bytes: &[u8] = bytemuck::cast_slice(part);
            pool.load(id, bytes)?;
            let gradients = vec![vec![0; bytes.len()]; 4];
            slices.push(Resident { id, start, elements, gradients, published: Arc::new(bytes.to_vec()) });
        }
        Ok(Self { pool, slices })
    }

    /// Puts gradients where a server's connections put them.
    fn receive(&mut self, gradients: &[&[f32]; 4]) {
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

    fn protected(&mut self, context: &StepContext) -> Result<(), StepError> {
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

    fn has(&self, parameters: &[f32]) -> bool {
        self.slices.iter().all(|slice| {
            let mut found = vec![0; slice.elements * size_of::<f32>()];
            let read = self.pool.read_parameters(slice.id, &mut found);
            let expected: &[u8] = bytemuck::cast_slice(&parameters[slice.start..slice.start + slice.elements]);
            read.is_ok() && found == expected
        })
    }
}

fn mean(gradients: &[Vec<u8>], target: &mut [f32]) -> Result<(), StepError> {
    let gradients: Vec<_> = gradients.iter().map(|bytes| Gradient::f32(bytes)).collect();
    // The gradients are finite and as long as the slice.
    Reduction::mean().reduce_into(&gradients, target).map_err(|_| StepError::Interrupted)
}

fn bench_context(turn: u64) -> StepContext {
    StepContext {
        step: turn,
        tensor_step: turn,
        learning_rate: RATE,
        peak_learning_rate: RATE,
        contributors: 4,
        staleness: 0,
        loss: None,
        seed: 0,
    }
}

fn timed(run: impl FnOnce() -> Result<(), StepError>) -> Result<Duration, StepError> {
    let since = Instant::now();
    run()?;
    Ok(since.elapsed())
}
