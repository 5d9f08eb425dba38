//! Embeddings: only touched rows cost time and move.

use stepbox_optimizer_tests::{bits, context};

use crate::{differences, norm, normal, slot, training};

const ROWS: usize = 300;
const COLUMNS: usize = 16;
const SHAPE: [u64; 2] = [ROWS as u64, COLUMNS as u64];

#[test]
fn lazy_adam_leaves_untouched_rows_and_their_state_alone() {
    let first = normal(ROWS * COLUMNS, 1);
    let mut training = training("lazy-adam", &[("weight_decay", "0.1")], &SHAPE, first.clone());
    let touched = [[3, 77, 299], [3, 100, 298]];
    for (rows, round) in touched.iter().zip(1..) {
        let before = ["mean", "variance"].map(|name| slot(&training, name));
        let parameters = training.parameters(0).unwrap();
        training.round_rows(0, &context(round, 0.1), rows, &normal(3 * COLUMNS, 1 + round)).unwrap();
        let after = ["mean", "variance"].map(|name| slot(&training, name));
        let states = before.iter().zip(&after).map(|(before, after)| (before.clone(), after.clone()));
        for (before, after) in states.chain([(parameters, training.parameters(0).unwrap())]) {
            for row in 0..ROWS {
                let elements = row * COLUMNS..(row + 1) * COLUMNS;
                let (before, after) = (bits(&before[elements.clone()]), bits(&after[elements]));
                match rows.contains(&(row as u64)) {
                    true => assert!(before.iter().zip(&after).all(|(before, after)| before != after), "row {row}"),
                    false => assert_eq!(before, after, "row {row}"),
                }
            }
        }
    }
}

#[test]
fn lazy_adam_is_adam_where_every_row_is_touched_in_every_round() {
    let first = normal(ROWS * COLUMNS, 1);
    let mut adam = training("adam", &[("epsilon", "1e-12")], &SHAPE, first.clone());
    let mut lazy = training("lazy-adam", &[("epsilon", "1e-12")], &SHAPE, first.clone());
    let rows: Vec<u64> = (0..SHAPE[0]).collect();
    for round in 1..=200 {
        let gradient = normal(ROWS * COLUMNS, 10 + round);
        adam.round(&context(round, 0.01), &[&gradient]).unwrap();
        lazy.round_rows(0, &context(round, 0.01), &rows, &gradient).unwrap();
    }
    let (adam, lazy) = (adam.parameters(0).unwrap(), lazy.parameters(0).unwrap());
    let (apart, moved) = (norm(&differences(&adam, &lazy)), norm(&differences(&adam, &first)));
    // Equal up to rounding. Epsilon is added in a different place: it must be small compared with all gradients.
    assert!(apart < 1e-6 * moved, "{apart} of {moved}");
}

#[test]
fn lazy_adam_is_not_adam_where_a_row_rests() {
    let mut adam = training("adam", &[], &SHAPE, vec![0.0; ROWS * COLUMNS]);
    let mut lazy = training("lazy-adam", &[], &SHAPE, vec![0.0; ROWS * COLUMNS]);
    let gradient = normal(ROWS * COLUMNS, 1);
    let rows: Vec<u64> = (0..SHAPE[0]).collect();
    adam.round(&context(1, 0.01), &[&gradient]).unwrap();
    lazy.round_rows(0, &context(1, 0.01), &rows, &gradient).unwrap();
    let [before_adam, before_lazy] = [&adam, &lazy].map(|training| training.parameters(0).unwrap());
    adam.round(&context(2, 0.01), &[&vec![0.0; ROWS * COLUMNS]]).unwrap();
    lazy.round_rows(0, &context(2, 0.01), &[], &[]).unwrap();
    // Adam's momentum continues to move these rows.
    assert!(norm(&differences(&before_adam, &adam.parameters(0).unwrap())) > 0.1);
    assert_eq!(bits(&before_lazy), bits(&lazy.parameters(0).unwrap()));
}

#[test]
fn rowwise_adagrad_keeps_one_number_a_row() {
    let mut training = training("rowwise-adagrad", &[], &SHAPE, vec![0.0; ROWS * COLUMNS]);
    assert_eq!(training.plan(0).slots.len(), 1);
    let mut squares = vec![0.0_f64; ROWS];
    for round in 1..=5 {
        let rows: Vec<u64> = (0..SHAPE[0]).filter(|row| (row + round) % 3 == 0).collect();
        let gradient = normal(rows.len() * COLUMNS, round);
        let before = training.parameters(0).unwrap();
        training.round_rows(0, &context(round, 0.1), &rows, &gradient).unwrap();
        let moved = differences(&before, &training.parameters(0).unwrap());
        for (row, gradient) in rows.iter().zip(gradient.chunks(COLUMNS)) {
            let row = *row as usize;
            squares[row] += norm(gradient).powi(2) / COLUMNS as f64;
            // All elements of a row have the same step size, whatever their gradients.
            for (moved, gradient) in moved[row * COLUMNS..].iter().zip(gradient) {
                let expected = 0.1 * f64::from(*gradient) / squares[row].sqrt();
                assert!((f64::from(*moved) - expected).abs() < 1e-5, "row {row}: {moved} instead of {expected}");
            }
        }
    }
    let sums = slot(&training, &training.plan(0).slots[0].name.clone());
    assert_eq!(sums.len(), ROWS);
    for (row, (sum, expected)) in sums.iter().zip(&squares).enumerate() {
        assert!((f64::from(*sum) / expected - 1.0).abs() < 1e-5, "row {row}: {sum} instead of {expected}");
    }
}
