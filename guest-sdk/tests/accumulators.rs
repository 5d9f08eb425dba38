//! Accumulators of every scope and kind: correct values, and the same bits for any cuts of a tensor.

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Stores every combined value in slots, and steps by a mixture of them.
    struct Everything {}
}

const VELOCITY: Slot = Slot::zero("velocity");
const SUM: Slot = Slot::zero("sum").of_type(ElementType::F64).scalar();
const SQUARES: Slot = Slot::zero("squares").of_type(ElementType::F64).scalar();
const LARGEST: Slot = Slot::zero("largest").of_type(ElementType::F64).scalar();
const LARGEST_SIGNED: Slot = Slot::zero("largest_signed").of_type(ElementType::F64).scalar();
const OF_PARAMETERS: Slot = Slot::zero("of_parameters").of_type(ElementType::F64).scalar();
const OF_GRADIENTS: Slot = Slot::zero("of_gradients").of_type(ElementType::F64).scalar();
const ROW_SUM: Slot = Slot::zero("row_sum").of_type(ElementType::F64).per_row();
const ROW_LARGEST: Slot = Slot::zero("row_largest").per_row();
const COLUMN_SQUARES: Slot = Slot::zero("column_squares").of_type(ElementType::F64).per_column();

const A_SUM: Accumulator = Accumulator::sum("sum");
const A_SQUARES: Accumulator = Accumulator::sum_of_squares("squares");
const A_LARGEST: Accumulator = Accumulator::absolute_maximum("largest");
const A_LARGEST_SIGNED: Accumulator = Accumulator::maximum("largest_signed");
const A_PARAMETERS: Accumulator = Accumulator::sum_of_squares("parameters").read_from(1).of_parameters();
const A_GRADIENTS: Accumulator = Accumulator::absolute_maximum("gradients").of_gradients();
const A_ROW_SUM: Accumulator = Accumulator::sum("row_sum").by_row();
const A_ROW_LARGEST: Accumulator = Accumulator::maximum("row_largest").by_row();
const A_COLUMN_SQUARES: Accumulator = Accumulator::sum_of_squares("column_squares").by_column();

impl Optimizer for Everything {
    const NAME: &'static str = "everything";
    const LEARNING_RATE: f64 = 0.1;
    type Round = f32;

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new()
            .slots(&[VELOCITY, SUM, SQUARES, LARGEST, LARGEST_SIGNED, OF_PARAMETERS, OF_GRADIENTS])
            .slots(&[ROW_SUM, ROW_LARGEST, COLUMN_SQUARES])
            .accumulators(&[A_SUM, A_SQUARES, A_LARGEST, A_LARGEST_SIGNED, A_PARAMETERS, A_GRADIENTS])
            .accumulators(&[A_ROW_SUM, A_ROW_LARGEST, A_COLUMN_SQUARES])
            .phases(&["gather", "apply"])
            .without_gradient(1))
    }

    fn begin(&self, phase: usize, _: &Tensor, context: &Context, shared: &mut Shared<'_>) -> Result<f32, String> {
        let Shared { combined, slots, .. } = shared;
        if phase == 0 {
            slots.write::<f64>(OF_GRADIENTS)?[0] = combined.number(A_GRADIENTS)?;
            assert!(combined.number(A_SUM).unwrap_err().contains("from phase 1"));
            return Ok(0.0);
        }
        for (slot, accumulator) in [
            (SUM, A_SUM),
            (SQUARES, A_SQUARES),
            (LARGEST, A_LARGEST),
            (LARGEST_SIGNED, A_LARGEST_SIGNED),
            (OF_PARAMETERS, A_PARAMETERS),
        ] {
            slots.write::<f64>(slot)?[0] = combined.number(accumulator)?;
        }
        slots.write::<f64>(ROW_SUM)?.copy_from_slice(combined.values(A_ROW_SUM)?);
        slots.write::<f64>(COLUMN_SQUARES)?.copy_from_slice(combined.values(A_COLUMN_SQUARES)?);
        for (slot, number) in slots.write::<f32>(ROW_LARGEST)?.iter_mut().zip(combined.values(A_ROW_LARGEST)?) {
            *slot = *number as f32;
        }
        assert!(combined.number(A_ROW_SUM).unwrap_err().contains("more than one"));
        Ok(context.learning_rate / combined.number(A_SQUARES)?.sqrt() as f32)
    }

    fn step(&self, rate: &f32, phase: usize, block: &mut Block<'_>) -> Result<(), String> {
        let rate = *rate;
        if phase == 0 {
            block.update_contributing(
                [VELOCITY],
                [A_SUM, A_LARGEST, A_LARGEST_SIGNED, A_ROW_SUM, A_ROW_LARGEST, A_COLUMN_SQUARES],
                |parameter, gradient, [velocity]| {
                    let velocity = 0.9 * velocity + gradient;
                    (parameter * 0.999, [velocity], [velocity; 6])
                },
            )?;
            return block.contribute([VELOCITY], [A_SQUARES], |_, _, [velocity]| [velocity]);
        }
        block.update([VELOCITY, ROW_SUM, ROW_LARGEST, COLUMN_SQUARES, SUM], |parameter, _, state| {
            let [velocity, row_sum, row_largest, column_squares, sum] = state;
            let scale = 1.0 + row_sum.abs() + row_largest.abs() + column_squares.sqrt() + sum.abs();
            (parameter - rate * velocity / scale, state)
        })
    }
}

fn wave(elements: usize, factor: f32) -> Vec<f32> {
    (0..elements).map(|index| (0.5 + index as f32 * factor).sin() * (1.0 + (index % 7) as f32)).collect()
}

fn trained(shape: &[u64], cut: Option<(usize, usize)>) -> Native<Everything> {
    let tensor = Tensor::new("t", shape, 3);
    let elements = tensor.elements() as usize;
    let mut training = Native::of_tensor(Everything {}, tensor, wave(elements, 0.37));
    if let Some((slice, block)) = cut {
        training = training.cut(slice, block);
    }
    for round in 1..=3 {
        training.round(0.1, &wave(elements, 0.011 * round as f32));
    }
    training
}

/// Rows within chunks, rows over many chunks, chunks of many rows, single columns, a vector, and tensors with very few
/// elements.
const SHAPES: [&[u64]; 8] = [&[37, 500], &[3, 9000], &[5000, 3], &[9000, 1], &[20_000], &[2, 5, 7], &[1], &[]];

#[test]
fn cuts_change_no_bit() {
    for shape in SHAPES {
        let whole = trained(shape, None);
        for cut in [(4096, 4096), (8192, 4096), (3 * 4096, 8192), (1 << 20, 4096), (4096, 1 << 20)] {
            let other = trained(shape, Some(cut));
            assert!(whole.parameters().iter().all(|parameter| parameter.is_finite()));
            assert_eq!(whole.parameters(), other.parameters(), "{shape:?} {cut:?}");
            for name in ["velocity", "sum", "squares", "row_sum", "row_largest", "column_squares", "of_gradients"] {
                assert!(whole.slot_bytes(name).is_some());
                assert_eq!(whole.slot_bytes(name), other.slot_bytes(name), "{name} {shape:?} {cut:?}");
            }
        }
    }
}

#[test]
fn numbers_are_what_their_names_say() {
    for shape in SHAPES {
        let training = trained(shape, Some((4096, 4096)));
        let velocity: Vec<f64> = training.slot("velocity").unwrap().iter().map(|value| f64::from(*value)).collect();
        let columns = training.tensor().columns() as usize;
        let number = |name: &str| training.slot_of::<f64>(name).unwrap()[0];
        let close = |name: &str, found: f64, expected: f64| {
            assert!((found - expected).abs() <= 1e-11 * (1.0 + expected.abs()), "{name} {shape:?} {found} {expected}");
        };
        close("sum", number("sum"), velocity.iter().sum());
        close("squares", number("squares"), velocity.iter().map(|value| value * value).sum());
        close("largest", number("largest"), velocity.iter().fold(0.0, |most, value| value.abs().max(most)));
        close("largest_signed", number("largest_signed"), velocity.iter().fold(f64::NEG_INFINITY, |a, b| b.max(a)));
        for (row, values) in velocity.chunks(columns).enumerate() {
            close("row_sum", training.slot_of::<f64>("row_sum").unwrap()[row], values.iter().sum());
            let largest = values.iter().fold(f64::NEG_INFINITY, |a, b| b.max(a));
            close("row_largest", f64::from(training.slot("row_largest").unwrap()[row]), largest);
        }
        for column in 0..columns {
            let squares = velocity.iter().skip(column).step_by(columns).map(|value| value * value).sum();
            close("column_squares", training.slot_of::<f64>("column_squares").unwrap()[column], squares);
        }
    }
}

#[test]
fn the_servers_numbers_are_those_right_before_the_phase_that_reads_them() {
    let start = wave(10_000, 0.37);
    let mut training = Native::new(Everything {}, start.clone());
    let gradient = wave(10_000, 0.2);
    training.round(0.1, &gradient);
    // Phase 0 has already shrunk the parameters.
    let shrunk: Vec<f32> = start.iter().map(|parameter| parameter * 0.999).collect();
    assert_eq!(training.slot_of::<f64>("of_parameters"), Some([statistics::sum_of_squares(&shrunk)].as_slice()));
    assert_eq!(training.slot_of::<f64>("of_gradients"), Some([statistics::absolute_maximum(&gradient)].as_slice()));
}

hyperparameters! {
    /// Descends along the gradient divided by its norm over the tensor's group and by its norm over the model.
    struct Normalised {}
}

const GROUP: Accumulator = Accumulator::sum("group").over_group();
const MODEL: Accumulator = Accumulator::sum_of_squares("model").of_gradients().over_model().read_from(1);
const NUMBERS: Slot = Slot::zero("group").of_type(ElementType::F64).scalar();
const MODEL_NUMBERS: Slot = Slot::zero("model").of_type(ElementType::F64).scalar();

impl Optimizer for Normalised {
    const NAME: &'static str = "normalised";
    const LEARNING_RATE: f64 = 0.1;
    type Round = ();

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        let plan = Plan::new().slots(&[NUMBERS, MODEL_NUMBERS]).accumulators(&[GROUP, MODEL]);
        Ok(plan.phases(&["sum", "keep"]).without_gradient(1))
    }

    fn begin(&self, phase: usize, _: &Tensor, _: &Context, shared: &mut Shared<'_>) -> Result<(), String> {
        if phase == 1 {
            shared.slots.write::<f64>(NUMBERS)?[0] = shared.combined.number(GROUP)?;
            shared.slots.write::<f64>(MODEL_NUMBERS)?[0] = shared.combined.number(MODEL)?;
        }
        Ok(())
    }

    fn step(&self, _: &(), phase: usize, block: &mut Block<'_>) -> Result<(), String> {
        if phase == 0 { block.contribute([], [GROUP], |_, gradient, []| [gradient]) } else { Ok(()) }
    }
}

#[test]
fn groups_and_the_model_are_combined_in_the_order_of_identities() {
    let tensor = |identity, group: &str| Tensor { group: group.into(), ..Tensor::new("t", &[1], identity) };
    // Only in this order is the sum of group `a` 1: the large numbers cancel before the small one is added.
    let gradients = [("a", 2, 1.0), ("b", 1, 5.0), ("a", 0, 1e17), ("a", 1, -1e17)];
    let mut model = NativeModel::new();
    for (group, identity, _) in gradients {
        model = model.with(Normalised {}, tensor(identity, group), vec![0.0]);
    }
    let gradients = gradients.map(|(_, _, gradient)| [gradient]);
    model.round(0.1, &gradients.each_ref().map(|gradient| gradient.as_slice()));
    let numbers = |name: &str| -> Vec<f64> {
        model.tensors().iter().map(|tensor| tensor.slot_of::<f64>(name).unwrap()[0]).collect()
    };
    assert_eq!(numbers("group"), [1.0, 5.0, 1.0, 1.0]);
    let large = f64::from(1e17_f32);
    assert_eq!(numbers("model"), [large * large + large * large + 25.0 + 1.0; 4]);
}
