//! Rounds of every kind can be rolled back, bit for bit: several phases, touched rows, whole tensors, evaluation.

mod common;

use std::ops::Range;
use std::sync::Arc;

use common::{admit, bytes, context, values};
use stepbox_sandbox::{
    Accumulators, AdmittedComponent, CallFailure, Granularity, InstancePool, LocalTensor, LocalTraining, Plan, SliceId,
    StepError, TensorDescription,
};

const ROWS: u64 = 300;
const COLUMNS: u64 = 131;

/// A matrix in a pool, as one slice.
struct Matrix {
    pool: InstancePool,
    slice: SliceId,
    plan: Arc<Plan>,
}

fn description() -> TensorDescription {
    TensorDescription { name: "matrix".into(), shape: vec![ROWS, COLUMNS], ..TensorDescription::default() }
}

impl Matrix {
    fn new(component: &AdmittedComponent, parameters: &[f32]) -> Self {
        let settings = component.configure(None, &[]).unwrap();
        let plan = Arc::new(component.plan(&settings, &description()).unwrap());
        let mut pool = component.pool();
        let slice = pool.bind(&description(), &plan, &settings, 0, parameters.len() as u32).unwrap();
        pool.load(slice, &bytes(parameters)).unwrap();
        Self { pool, slice, plan }
    }

    fn state(&self) -> Vec<Vec<u8>> {
        let mut parameters = vec![0; (ROWS * COLUMNS) as usize * 4];
        self.pool.read_parameters(self.slice, &mut parameters).unwrap();
        let slot = |name: &String| self.pool.read_slot(self.slice, name).unwrap().unwrap().to_vec();
        std::iter::once(parameters).chain(self.plan.slots.iter().map(|entry| slot(&entry.name))).collect()
    }

    /// Runs all phases of a round, up to the first failure.
    fn round(&mut self, round: u64, gradient: &[f32]) -> Result<(), StepError> {
        let mut source = |range: Range<usize>, target: &mut [f32]| target.copy_from_slice(&gradient[range]);
        if self.plan.is_one_pass() {
            return self.pool.step(self.slice, &context(round, 0.1), &mut source);
        }
        let mut accumulators = Accumulators::new(Arc::clone(&self.plan));
        for phase in 0..self.plan.phases.len() as u32 {
            if self.plan.gathers_before(phase) {
                let gathered = self.pool.statistics(self.slice, phase, &mut source)?;
                accumulators.add([gathered]);
            }
            let given = self.pool.phase(self.slice, phase, &context(round, 0.1), &mut accumulators, &mut source)?;
            accumulators.add([given]);
        }
        Ok(())
    }

    fn touch(&mut self, round: u64, rows: &[u32]) -> Result<(), StepError> {
        let mut source = |_: Range<usize>, target: &mut [f32]| target.fill(0.5);
        self.pool.step_rows(self.slice, rows, &context(round, 0.1), &mut source)
    }
}

fn parameters() -> Vec<f32> {
    values((ROWS * COLUMNS) as usize, 0)
}

#[test]
fn a_round_of_several_phases_or_of_a_whole_tensor_can_be_taken_back() {
    for name in ["lamb", "adafactor", "muon", "adamw-8bit"] {
        let mut matrix = Matrix::new(&admit(name).unwrap(), &parameters());
        matrix.round(1, &values((ROWS * COLUMNS) as usize, 1)).unwrap();
        matrix.pool.commit(matrix.slice);
        let before = matrix.state();
        matrix.round(2, &values((ROWS * COLUMNS) as usize, 2)).unwrap();
        let after = matrix.state();
        assert!(before[0] != after[0] && before[1] != after[1], "{name} has not moved");
        matrix.pool.roll_back(matrix.slice);
        assert!(matrix.state() == before, "{name}");
        // The same round again gives the same result.
        matrix.round(2, &values((ROWS * COLUMNS) as usize, 2)).unwrap();
        assert!(matrix.state() == after, "{name}");
    }
}

/// The task that runs a round on a server may die before it decides the outcome of the round.
#[test]
fn a_round_that_nobody_has_ended_is_taken_back_by_the_next_one() {
    for name in ["adamw", "lamb", "muon"] {
        let gradient = |round| values((ROWS * COLUMNS) as usize, round);
        let [mut abandoned, mut expected] = [(); 2].map(|()| Matrix::new(&admit(name).unwrap(), &parameters()));
        for matrix in [&mut abandoned, &mut expected] {
            matrix.round(1, &gradient(1)).unwrap();
            matrix.pool.commit(matrix.slice);
        }
        abandoned.round(2, &gradient(2)).unwrap();
        for matrix in [&mut abandoned, &mut expected] {
            matrix.round(2, &gradient(3)).unwrap();
            matrix.pool.commit(matrix.slice);
        }
        assert!(abandoned.state() == expected.state(), "{name}");
    }
}

#[test]
fn a_trap_in_a_later_phase_leaves_no_trace_of_the_earlier_ones() {
    let component = admit("hostile/late-trap").unwrap();
    let mut poisoned = parameters();
    poisoned[7_000] = 2e9;
    let mut matrix = Matrix::new(&component, &poisoned);
    let before = matrix.state();
    for _ in 0..2 {
        let error = matrix.round(1, &values((ROWS * COLUMNS) as usize, 1)).unwrap_err();
        assert!(
            matches!(&error, StepError::Call(error) if matches!(error.failure, CallFailure::Trap { .. })),
            "{error}"
        );
        assert!(matrix.state() == before);
    }
}

#[test]
fn a_round_of_touched_rows_changes_these_and_can_be_taken_back() {
    for name in ["lazy-adam", "rowwise-adagrad"] {
        let mut matrix = Matrix::new(&admit(name).unwrap(), &parameters());
        assert_eq!(matrix.plan.granularity, Granularity::TouchedRows);
        matrix.touch(1, &[0, 5, 6, 7, 299]).unwrap();
        matrix.pool.commit(matrix.slice);
        let before = matrix.state();
        let touched = [5, 6, 130, 298, 299];
        matrix.touch(2, &touched).unwrap();
        let after = matrix.state();
        for row in 0..ROWS as usize {
            let bytes = row * COLUMNS as usize * 4..(row + 1) * COLUMNS as usize * 4;
            let moved = before[0][bytes.clone()] != after[0][bytes];
            assert_eq!(moved, touched.contains(&(row as u32)), "{name}: row {row}");
        }
        matrix.pool.roll_back(matrix.slice);
        assert!(matrix.state() == before, "{name}");
    }
}

/// Blocks as long as one row, so that each round has many calls.
#[test]
fn rows_are_visited_the_same_however_many_fit_a_block() {
    let state = |block_elements| {
        let limits = stepbox_sandbox::Limits { block_elements, ..Default::default() };
        let component = common::sandbox(limits).admit(&common::component("lazy-adam")).unwrap();
        let mut matrix = Matrix::new(&component, &parameters());
        let rows: Vec<u32> = (0..ROWS as u32).filter(|row| row % 3 != 1).collect();
        matrix.touch(1, &rows).unwrap();
        matrix.state()
    };
    assert!(state(4096) == state(1 << 18));
}

#[test]
fn evaluation_weights_leave_no_trace() {
    let component = admit("schedule-free-adamw").unwrap();
    let settings = component.configure(None, &[]).unwrap();
    let tensor = LocalTensor { description: description(), settings, parameters: parameters() };
    let mut training = LocalTraining::new(&component, vec![tensor], 4096).unwrap();
    let gradient = values((ROWS * COLUMNS) as usize, 1);
    for round in 1..4 {
        training.round(&context(round, 0.1), &[&gradient]).unwrap();
    }
    let state = |training: &LocalTraining| {
        let slots = training.plan(0).slots.clone();
        let slots: Vec<Vec<u8>> =
            slots.iter().map(|slot| training.slot(0, &slot.name).unwrap().unwrap().concat()).collect();
        (common::bits(&training.parameters(0).unwrap()), slots)
    };
    let before = state(&training);
    let evaluation = training.evaluation(0, &context(3, 0.1)).unwrap();
    assert_ne!(common::bits(&evaluation), before.0);
    assert!(state(&training) == before);
    assert_eq!(common::bits(&training.evaluation(0, &context(3, 0.1)).unwrap()), common::bits(&evaluation));
}

/// Rows of different widths in one instance: the memory for gradients must fit the widest row and the longest list.
#[test]
fn tensors_with_wide_and_with_many_rows_share_an_instance() {
    let component = admit("lazy-adam").unwrap();
    let settings = component.configure(None, &[]).unwrap();
    let mut pool = component.pool();
    let mut bind = |name: &str, rows: u64, columns: u64| {
        let shape = vec![rows, columns];
        let tensor = TensorDescription { name: name.into(), shape, ..TensorDescription::default() };
        let plan = Arc::new(component.plan(&settings, &tensor).unwrap());
        let elements = (rows * columns) as usize;
        let slice = pool.bind(&tensor, &plan, &settings, 0, elements as u32).unwrap();
        pool.load(slice, &bytes(&vec![1.0; elements])).unwrap();
        (slice, elements)
    };
    let (wide, wide_elements) = bind("wide", 64, 4608);
    let (many, many_elements) = bind("many", 1000, 4);
    let read = |pool: &InstancePool, slice, elements: usize| {
        let mut parameters = vec![0; elements * 4];
        pool.read_parameters(slice, &mut parameters).unwrap();
        parameters
    };
    let mut source = |_: Range<usize>, target: &mut [f32]| target.fill(0.5);
    let before = read(&pool, many, many_elements);
    pool.step_rows(wide, &(0..64).collect::<Vec<_>>(), &context(1, 0.1), &mut source).unwrap();
    assert!(
        read(&pool, many, many_elements) == before,
        "a tensor's gradient must not overlap another tensor's parameters"
    );
    let before = read(&pool, wide, wide_elements);
    pool.step_rows(many, &(0..1000).collect::<Vec<_>>(), &context(1, 0.1), &mut source).unwrap();
    assert!(read(&pool, wide, wide_elements) == before);
}

/// Three slices in one instance. One traps while another is between its phases, or has finished and is not yet
/// committed or rolled back; the third causes the instance to be recreated.
#[test]
fn an_instance_that_ends_in_the_middle_of_another_keys_round_leaves_that_key_as_it_was() {
    let component = admit("hostile/late-trap").unwrap();
    let settings = component.configure(None, &[]).unwrap();
    let mut pool = component.pool();
    let mut bind = |elements: usize, poison: Option<f32>| {
        let tensor = common::vector(elements);
        let plan = Arc::new(component.plan(&settings, &tensor).unwrap());
        let mut parameters = values(elements, elements as u32);
        if let Some(poison) = poison {
            parameters[0] = poison;
        }
        let slice = pool.bind(&tensor, &plan, &settings, 0, elements as u32).unwrap();
        pool.load(slice, &bytes(&parameters)).unwrap();
        (slice, plan, elements)
    };
    // The first slice is released, so that the others are at different addresses in the next instance.
    let released = bind(9_000, None);
    let (bystander, poisoned, third) = (bind(5_000, None), bind(100, Some(2e9)), bind(300, None));
    let state = |pool: &InstancePool, (slice, _, elements): &(SliceId, Arc<Plan>, usize)| {
        let mut parameters = vec![0; elements * 4];
        pool.read_parameters(*slice, &mut parameters).unwrap();
        (parameters, pool.read_slot(*slice, "rounds").unwrap().unwrap().to_vec())
    };
    let phase = |pool: &mut InstancePool, (slice, plan, _): &(SliceId, Arc<Plan>, usize), phase| {
        let mut source = |_: Range<usize>, target: &mut [f32]| target.fill(0.5);
        pool.phase(*slice, phase, &context(1, 0.1), &mut Accumulators::new(Arc::clone(plan)), &mut source)
    };
    let before = state(&pool, &bystander);
    assert_eq!(pool.instances(), 1);

    for set_up_anew in [false, true] {
        phase(&mut pool, &bystander, 0).unwrap();
        phase(&mut pool, &poisoned, 0).unwrap();
        phase(&mut pool, &poisoned, 1).unwrap_err();
        if set_up_anew {
            phase(&mut pool, &third, 0).unwrap();
        }
        assert_eq!(phase(&mut pool, &bystander, 1), Err(StepError::Interrupted));
        assert!(state(&pool, &bystander) == before, "between its phases; recreated: {set_up_anew}");
    }
    for keep in [false, true] {
        phase(&mut pool, &bystander, 0).unwrap();
        phase(&mut pool, &bystander, 1).unwrap();
        let after = state(&pool, &bystander);
        assert!(after != before);
        phase(&mut pool, &poisoned, 0).unwrap();
        phase(&mut pool, &poisoned, 1).unwrap_err();
        if !keep {
            pool.release(released.0);
        }
        phase(&mut pool, &third, 0).unwrap();
        if keep {
            pool.commit(bystander.0);
        } else {
            pool.roll_back(bystander.0);
        }
        assert!(
            state(&pool, &bystander) == if keep { after } else { before.clone() },
            "settled late; committed: {keep}"
        );
    }
}
