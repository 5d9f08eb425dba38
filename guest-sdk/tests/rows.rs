//! Optimizers that visit touched rows only.

use stepbox_guest::Gradient;
use stepbox_guest::prelude::*;

const MEAN: Slot = Slot::zero("mean");
const SQUARES: Slot = Slot::zero("squares").per_row();
const VISITS: Slot = Slot::zero("visits").of_type(ElementType::U32).per_row();

hyperparameters! {
    /// Momentum for touched rows, divided by one number for each row.
    struct Lazy {
        /// Whether to visit all rows instead.
        eager: bool = false,
    }
}

impl Optimizer for Lazy {
    const NAME: &'static str = "lazy";
    const LEARNING_RATE: f64 = 0.1;
    type Round = f32;

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        if self.eager {
            return Ok(Plan::new().slots(&[MEAN]));
        }
        let plan = Plan::new().slots(&[MEAN, SQUARES, VISITS]);
        if tensor.name == "whole" { Ok(plan.whole_tensor(0)) } else { Ok(plan.touched_rows()) }
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<f32, String> {
        Ok(context.learning_rate)
    }

    fn step(&self, rate: &f32, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let rate = *rate;
        let momentum = |parameter: f32, gradient: f32, [mean]: [f32; 1]| {
            let mean = 0.9 * mean + gradient;
            (parameter - rate * mean, [mean])
        };
        if self.eager {
            return block.update([MEAN], momentum);
        }
        if let Some(rows) = block.row_ids() {
            let visits = block.slots.write::<u32>(VISITS)?;
            rows.iter().for_each(|row| visits[*row as usize] += 1);
        }
        block.for_each_row([SQUARES], |row| {
            let [squares] = row.slots;
            squares[0] += statistics::sum_of_squares(row.gradient) as f32;
            assert_eq!(row.gradient[0], row.index as f32 + 1.0);
        })?;
        block.update([MEAN], momentum)?;
        // Per-row slots show each row's value.
        block.update([SQUARES], |parameter, _, [squares]| (parameter + 0.0 * squares, [squares]))
    }
}

const ROWS: u32 = 3000;
const COLUMNS: usize = 6;

fn training(lazy: Lazy) -> Native<Lazy> {
    let tensor = Tensor::new("embedding", &[ROWS.into(), COLUMNS as u64], 0);
    let parameters = (0..ROWS as usize * COLUMNS).map(|index| (index as f32 * 0.3).sin()).collect();
    Native::of_tensor(lazy, tensor, parameters)
}

/// The first element of a row identifies the row.
fn values(rows: &[u32]) -> Vec<f32> {
    rows.iter().flat_map(|row| (0..COLUMNS).map(move |column| *row as f32 + 1.0 + column as f32)).collect()
}

fn touched(round: u32) -> Vec<u32> {
    (0..ROWS).filter(|row| (row * 7 + round).is_multiple_of(5)).collect()
}

#[test]
fn only_touched_rows_change_and_cuts_change_no_bit() {
    let start = training(Lazy::default());
    let train = |mut lazy: Native<Lazy>| {
        for round in 1..=3 {
            let rows = touched(round);
            lazy.round_rows(&Context::of_round(round.into(), 0.1), &rows, &values(&rows));
        }
        lazy
    };
    let whole = train(start.clone());
    for cut in [(4096, 4096), (8192, 4096), (12_288, 8192)] {
        let other = train(start.clone().cut(cut.0, cut.1));
        assert_eq!(whole.parameters(), other.parameters());
        for name in ["mean", "squares", "visits"] {
            assert_eq!(whole.slot_bytes(name), other.slot_bytes(name), "{name}");
        }
    }
    let row = |native: &Native<Lazy>, row: usize| native.parameters()[row * COLUMNS..][..COLUMNS].to_vec();
    let often = |row: u32| (1..=3).filter(|round| touched(*round).contains(&row)).count() as u32;
    for index in 0..ROWS {
        assert_eq!(whole.slot_of::<u32>("visits").unwrap()[index as usize], often(index));
        assert_eq!(row(&whole, index as usize) == row(&start, index as usize), often(index) == 0, "row {index}");
    }
}

#[test]
fn rows_that_are_always_touched_go_the_way_of_a_dense_tensor() {
    let (mut lazy, mut eager) = (training(Lazy::default()), training(Lazy { eager: true }));
    let all: Vec<u32> = (0..ROWS).collect();
    for round in 1..=3 {
        lazy.round_rows(&Context::of_round(round, 0.1), &all, &values(&all));
        eager.round(0.1, &values(&all));
    }
    assert_eq!(lazy.parameters(), eager.parameters());
    lazy.round(0.1, &values(&all));
    eager.round_rows(&Context::of_round(4, 0.1), &all, &values(&all));
    assert_eq!(lazy.parameters(), eager.parameters());
}

#[test]
fn rows_that_are_not_listed_have_no_gradient_for_those_who_visit_them() {
    let (mut rows, mut dense) = (training(Lazy { eager: true }), training(Lazy { eager: true }));
    let listed = [1, 5];
    rows.round_rows(&Context::of_round(1, 0.1), &listed, &values(&listed));
    let mut gradient = vec![0.0; ROWS as usize * COLUMNS];
    for row in listed {
        gradient[row as usize * COLUMNS..][..COLUMNS].copy_from_slice(&values(&[row]));
    }
    dense.round(0.1, &gradient);
    assert_eq!(rows.parameters(), dense.parameters());
}

#[test]
fn a_tensor_that_is_visited_whole_has_its_rows_too() {
    let tensor = Tensor::new("whole", &[4, COLUMNS as u64], 0);
    let mut training = Native::of_tensor(Lazy::default(), tensor, vec![0.0; 4 * COLUMNS]);
    training.round(0.1, &values(&[0, 1, 2, 3]));
    let squares = |row: u32| values(&[row]).iter().map(|value| value * value).sum::<f32>();
    assert_eq!(training.slot("squares"), Some([squares(0), squares(1), squares(2), squares(3)].as_slice()));
}

#[test]
fn rows_that_make_no_sense_are_refused() {
    let mut lazy = training(Lazy::default());
    let context = Context::of_round(1, 0.1);
    for rows in [&[2, 1][..], &[1, 1], &[ROWS]] {
        assert!(lazy.try_round(&context, Gradient::Rows { rows, values: &values(rows) }).is_err(), "{rows:?}");
    }
    assert!(lazy.try_round(&context, Gradient::Rows { rows: &[1], values: &[0.0] }).is_err());
    let refused = Native::planned(Lazy::default(), Tensor::new("vector", &[4], 0), vec![0.0; 4]);
    assert!(refused.unwrap_err().contains("two axes"));
}
