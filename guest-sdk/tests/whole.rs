//! Optimizers of whole tensors, optimizers with random numbers, and authors' mistakes.

use stepbox_guest::linear_algebra::{Matrix, MatrixMut, MatrixRef, multiply};
use stepbox_guest::prelude::*;

hyperparameters! {
    /// Stores the sum of G times its transpose, and steps along its product with G.
    struct Preconditioned {}
}

const LEFT: Slot = Slot::zero("left");
const COUNTS: Slot = Slot::zero("counts").of_type(ElementType::U32).vector(3);
const NORM: Slot = Slot::zero("norm").scalar();
const STEP_NORM: Accumulator = Accumulator::sum_of_squares("step_norm").over_model();

impl Optimizer for Preconditioned {
    const NAME: &'static str = "preconditioned";
    const LEARNING_RATE: f64 = 0.1;
    type Round = f32;

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        let rows = tensor.rows();
        let plan = Plan::new().slots(&[LEFT.matrix(rows, rows), COUNTS, NORM]).accumulators(&[STEP_NORM]);
        Ok(plan.phases(&["step", "measure"]).whole_tensor(4 * tensor.elements()))
    }

    fn begin(&self, phase: usize, _: &Tensor, context: &Context, shared: &mut Shared<'_>) -> Result<f32, String> {
        if phase == 1 {
            shared.slots.write::<f32>(NORM)?[0] = shared.combined.number(STEP_NORM)?.sqrt() as f32;
        }
        Ok(context.learning_rate)
    }

    fn step(&self, rate: &f32, phase: usize, block: &mut Block<'_>) -> Result<(), String> {
        if phase == 1 {
            assert!(block.contribute_number(STEP_NORM, 0.0).unwrap_err().contains("phase 1"));
            return Ok(());
        }
        let (rows, columns) = (block.tensor().rows() as usize, block.tensor().columns() as usize);
        let gradient = MatrixRef::new(block.gradient, rows, columns)?;
        let left = block.slots.write::<f32>(LEFT)?;
        multiply(1.0, gradient, gradient.transposed(), 1.0, &mut MatrixMut::new(left, rows, rows)?)?;
        let mut step = Matrix::zeros(rows, columns);
        multiply(1.0, MatrixRef::new(left, rows, rows)?, gradient, 0.0, &mut step.matrix_mut())?;
        for (parameter, step) in block.parameters.iter_mut().zip(step.values()) {
            *parameter -= rate * step;
        }
        block.slots.write::<u32>(COUNTS)?[2] += 1;
        block.contribute_number(STEP_NORM, statistics::sum_of_squares(step.values()))
    }
}

#[test]
fn whole_tensors_are_matrices_and_contribute_to_the_model() {
    let mut model = NativeModel::new();
    for identity in 0..2 {
        model = model.with(Preconditioned {}, Tensor::new("m", &[2, 3], identity), vec![0.0; 6]);
    }
    // Cuts do not affect a tensor that is visited whole.
    let mut model = model.cut(4096, 4096);
    let gradient = [1.0, 0.0, 2.0, 0.0, 1.0, 0.0];
    model.round(0.5, &[&gradient, &gradient]);
    let tensor = &model.tensors()[0];
    assert_eq!(tensor.slot("left"), Some([5.0, 0.0, 0.0, 1.0].as_slice()));
    assert_eq!(tensor.parameters(), [-2.5, 0.0, -5.0, 0.0, -0.5, 0.0]);
    assert_eq!(tensor.slot_of::<u32>("counts"), Some([0, 0, 1].as_slice()));
    assert_eq!(tensor.slot("norm").unwrap()[0], (2.0_f32 * (25.0 + 100.0 + 1.0)).sqrt());
}

hyperparameters! {
    /// A random walk.
    struct Walk {}
}

impl Optimizer for Walk {
    const NAME: &'static str = "walk";
    const LEARNING_RATE: f64 = 0.1;
    type Round = Random;

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new().slots(&[Slot::zero("drawn")]))
    }

    fn begin(&self, _: usize, tensor: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<Random, String> {
        Ok(context.random(tensor))
    }

    fn step(&self, random: &Random, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        block.update_with_normal(random, [], |parameter, _, [], noise| (parameter + noise, []))?;
        block.for_each_chunk([Slot::zero("drawn")], |chunk| {
            let [drawn] = chunk.slots;
            random.stream(1).fill_uniform(chunk.start, drawn);
        })
    }
}

#[test]
fn random_numbers_belong_to_elements() {
    let walk = |cut: usize, seed: u64, identity: u64| {
        let tensor = Tensor::new("t", &[10_001], identity);
        let mut training = Native::of_tensor(Walk {}, tensor, vec![0.0; 10_001]).cut(cut, cut);
        let context = Context { seed, ..Context::of_round(1, 0.1) };
        training.round_in(&context, &[0.0; 10_001]);
        (training.parameters().to_vec(), training.slot("drawn").unwrap().to_vec())
    };
    let whole = walk(1 << 20, 1, 1);
    assert_eq!(walk(4096, 1, 1), whole);
    assert_ne!(walk(4096, 2, 1), whole);
    assert_ne!(walk(4096, 1, 2), whole);
    assert!(whole.0.iter().zip(&whole.1).all(|(normal, uniform)| normal != uniform));
}

/// An optimizer that does what a test asks for.
#[derive(Clone, Copy, Default)]
struct Probe {
    plan: Option<Planned>,
    begin: Option<Begun>,
    step: Option<Stepped>,
}

type Planned = fn() -> Plan;
type Begun = fn(&mut Shared<'_>) -> Result<(), String>;
type Stepped = fn(&mut Block<'_>) -> Result<(), String>;

impl stepbox_guest::Hyperparameters for Probe {
    const DOCUMENTATION: &'static str = "Does what a test wants.";

    fn schema() -> Vec<stepbox_guest::Hyperparameter> {
        Vec::new()
    }

    fn from_values(_: &[stepbox_guest::Value]) -> Result<Self, String> {
        Ok(Self::default())
    }
}

impl Optimizer for Probe {
    const NAME: &'static str = "probe";
    const LEARNING_RATE: f64 = 0.1;
    type Round = ();

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(self.plan.map_or_else(Plan::new, |plan| plan()))
    }

    fn begin(&self, _: usize, _: &Tensor, _: &Context, shared: &mut Shared<'_>) -> Result<(), String> {
        self.begin.map_or(Ok(()), |begin| begin(shared))
    }

    fn step(&self, _: &(), _: usize, block: &mut Block<'_>) -> Result<(), String> {
        self.step.map_or(Ok(()), |step| step(block))
    }
}

fn refusal(plan: Planned) -> String {
    let probe = Probe { plan: Some(plan), ..Probe::default() };
    Native::planned(probe, Tensor::new("t", &[3, 4], 0), vec![0.0; 12]).map(|_| ()).expect_err("an inconsistent plan")
}

#[test]
fn plans_without_sense_are_refused_with_the_reason() {
    const A: Slot = Slot::zero("a");
    const SUM: Accumulator = Accumulator::sum("sum");
    let refusals: [(Planned, &str); 14] = [
        (|| Plan::new().slots(&[A, A]), "named a"),
        (|| Plan::new().slots(&[A.quantised(Code::Signed), Slot::zero("a_scale")]), "named a_scale"),
        (|| Plan::new().slots(&[A.per_run(100)]), "divide 4096"),
        (|| Plan::new().slots(&[A.matrix(2, 2)]), "visited whole"),
        (|| Plan::new().slots(&[A.quantised(Code::Signed)]).touched_rows(), "runs"),
        (|| Plan::new().slots(&[A.quantised(Code::Signed).per_row()]), "quantised"),
        (|| Plan::new().slots(&[Slot::parameter("a").bf16()]), "copy of the parameters"),
        (|| Plan::new().phases(&[]), "no phase"),
        (|| Plan::new().without_gradient(1), "no phase 1"),
        (|| Plan::new().accumulators(&[SUM]), "read in no phase"),
        (|| Plan::new().phases(&["one", "two"]).accumulators(&[SUM, SUM]), "twice"),
        (|| Plan::new().phases(&["one", "two"]).accumulators(&[SUM.contributed_in(1).read_from(1)]), "complete"),
        (|| Plan::new().phases(&["one", "two"]).accumulators(&[SUM.by_row().of_gradients()]), "only the optimizer"),
        (|| Plan::new().phases(&["one", "two"]).accumulators(&[SUM.by_row()]).whole_tensor(0), "sees whole"),
    ];
    for (plan, reason) in refusals {
        let refusal = refusal(plan);
        assert!(refusal.contains(reason), "{refusal:?} does not say {reason:?}");
    }
}

#[test]
fn what_a_step_gets_wrong_fails_the_round_with_the_reason() {
    let gradient = [0.0; 12];
    let failure = |probe: Probe| {
        let mut training = Native::of_tensor(probe, Tensor::new("t", &[3, 4], 0), vec![0.0; 12]);
        training.try_round(&Context::of_round(1, 0.1), Gradient::Dense(&gradient)).unwrap_err()
    };
    let unknown =
        failure(Probe { step: Some(|block| block.update([Slot::zero("x")], |p, _, s| (p, s))), ..Probe::default() });
    assert!(unknown.contains("slot x is not in the plan"), "{unknown}");
    const SUM: Accumulator = Accumulator::sum("sum");
    let unknown =
        failure(Probe { step: Some(|block| block.contribute([], [SUM], |_, _, []| [0.0])), ..Probe::default() });
    assert!(unknown.contains("accumulator sum is not in the plan"), "{unknown}");
    let number = failure(Probe { step: Some(|block| block.contribute_number(SUM, 0.0)), ..Probe::default() });
    assert!(number.contains("elements"), "{number}");
    fn planned() -> Plan {
        Plan::new().accumulators(&[SUM]).phases(&["give", "take"])
    }
    let twice = failure(Probe {
        plan: Some(planned),
        step: Some(|block| block.contribute([], [SUM, SUM], |_, _, []| [1.0, 2.0])),
        ..Probe::default()
    });
    assert!(twice.contains("accumulator sum is named twice"), "{twice}");
    let own = failure(Probe { begin: Some(|_| Err("no such luck".into())), ..Probe::default() });
    assert_eq!(own, "no such luck");
}

#[test]
fn rounds_that_leave_something_not_finite_fail() {
    fn planned() -> Plan {
        Plan::new().slots(&[
            Slot::zero("single"),
            Slot::zero("half").bf16(),
            Slot::zero("byte").quantised(Code::Unsigned),
            Slot::zero("double").of_type(ElementType::F64).scalar(),
        ])
    }
    let steps: [(&str, Stepped); 4] = [
        ("parameter 3 of t", |block| {
            block.parameters[3] = f32::INFINITY;
            Ok(())
        }),
        ("slot single", |block| block.update([Slot::zero("single")], |p, _, [_]| (p, [f32::NAN]))),
        ("slot half", |block| block.update([Slot::zero("half").bf16()], |p, _, [_]| (p, [f32::NEG_INFINITY]))),
        ("slot byte_scale", |block| {
            block.update([Slot::zero("byte").quantised(Code::Unsigned)], |p, _, [_]| (p, [f32::NAN]))
        }),
    ];
    let failure = |probe: Probe| {
        let mut training = Native::of_tensor(probe, Tensor::new("t", &[3, 2000], 0), vec![0.0; 6000]);
        training.try_round(&Context::of_round(1, 0.1), Gradient::Dense(&[0.0; 6000])).unwrap_err()
    };
    for (place, step) in steps {
        let failed = failure(Probe { plan: Some(planned), step: Some(step), ..Probe::default() });
        assert!(failed.contains(place) && failed.contains("not finite"), "{failed}");
    }
    let begun: Begun = |shared| {
        let double = Slot::zero("double").of_type(ElementType::F64).scalar();
        shared.slots.write::<f64>(double)?[0] = f64::NAN;
        Ok(())
    };
    let failed = failure(Probe { plan: Some(planned), begin: Some(begun), ..Probe::default() });
    assert!(failed.contains("slot double"), "{failed}");
}

#[test]
#[should_panic(expected = "evaluation failed: the phase of evaluation weights has no gradient")]
fn rows_are_not_visited_for_evaluation_weights() {
    let probe = Probe {
        plan: Some(|| Plan::new().whole_tensor(0).evaluation("average")),
        step: Some(|block| block.for_each_row([], |row: Row<'_, 0>| assert_eq!(row.gradient.len(), 4))),
        ..Probe::default()
    };
    let mut training = Native::of_tensor(probe, Tensor::new("t", &[3, 4], 0), vec![0.0; 12]);
    training.round(0.1, &[0.0; 12]);
    training.evaluation();
}

#[test]
fn slices_that_disagree_on_a_shared_slot_are_noticed() {
    const COLUMN: Slot = Slot::zero("column").per_column();
    let probe = Probe {
        plan: Some(|| Plan::new().slots(&[COLUMN])),
        begin: Some(|shared| {
            let first = shared.rows.start as f32;
            shared.slots.write::<f32>(COLUMN)?.fill(first);
            Ok(())
        }),
        step: None,
    };
    let tensor = Tensor::new("t", &[100, 100], 0);
    let context = Context::of_round(1, 0.1);
    let mut whole = Native::of_tensor(probe, tensor.clone(), vec![0.0; 10_000]);
    assert_eq!(whole.try_round(&context, Gradient::Dense(&[0.0; 10_000])), Ok(()));
    let mut cut = Native::of_tensor(probe, tensor, vec![0.0; 10_000]).cut(4096, 4096);
    let error = cut.try_round(&context, Gradient::Dense(&[0.0; 10_000])).unwrap_err();
    assert!(error.contains("slices disagree on slot column"), "{error}");
}

#[test]
fn gradients_that_do_not_fit_are_refused() {
    let mut training = Native::new(Probe::default(), vec![0.0; 3]);
    assert!(training.try_round(&Context::of_round(1, 0.1), Gradient::Dense(&[0.0; 2])).is_err());
    assert!(Native::planned(Probe::default(), Tensor::new("t", &[3], 0), vec![0.0; 2]).is_err());
}
