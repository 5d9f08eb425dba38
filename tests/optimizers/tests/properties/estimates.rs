//! Optimizers that estimate what other optimizers have as a setting: Schedule-Free its average, Prodigy its step size.

use stepbox_optimizer_tests::{bits, context};
use stepbox_sandbox::LocalTraining;

use crate::{normal, training};

const ELEMENTS: usize = 1000;

/// Curvatures from 1 to 1/10.
fn curvature(index: usize) -> f32 {
    0.1_f32.powf(index as f32 / (ELEMENTS - 1) as f32)
}

/// 1/2 sum of curvature * (parameter - minimum)².
fn loss(parameters: &[f32], minimum: &[f32]) -> f64 {
    let part = |(index, (parameter, minimum)): (usize, (&f32, &f32))| {
        0.5 * f64::from(curvature(index)) * f64::from(parameter - minimum).powi(2)
    };
    parameters.iter().zip(minimum).enumerate().map(part).sum()
}

fn gradient(parameters: &[f32], minimum: &[f32]) -> Vec<f32> {
    let part = |(index, (parameter, minimum)): (usize, (&f32, &f32))| curvature(index) * (parameter - minimum);
    parameters.iter().zip(minimum).enumerate().map(part).collect()
}

/// Descends with noise of variance 1 in the gradients, which finally exceeds the gradients themselves by far.
fn descend(training: &mut LocalTraining, minimum: &[f32], rate: f64) {
    for round in 1..=1000 {
        let mut gradient = gradient(&training.parameters(0).unwrap(), minimum);
        gradient.iter_mut().zip(normal(ELEMENTS, 10 + round)).for_each(|(gradient, noise)| *gradient += noise);
        training.round(&context(round, rate), &[&gradient]).unwrap();
    }
}

#[test]
fn schedule_frees_evaluation_weights_are_better_than_those_it_trains() {
    let minimum = normal(ELEMENTS, 1);
    let start = || vec![0.0; ELEMENTS];
    for rate in [0.1, 0.3] {
        let mut training = training("schedule-free-adamw", &[], &[ELEMENTS as u64], start());
        let mut adamw = crate::training("adamw", &[("weight_decay", "0")], &[ELEMENTS as u64], start());
        descend(&mut training, &minimum, rate);
        descend(&mut adamw, &minimum, rate);
        let parameters = training.parameters(0).unwrap();
        let evaluation = loss(&training.evaluation(0, &context(1000, rate)).unwrap(), &minimum);
        let (trained, adamw) = (loss(&parameters, &minimum), loss(&adamw.parameters(0).unwrap(), &minimum));
        println!("rate {rate}: evaluation {evaluation:.1}, training {trained:.1}, adamw {adamw:.1}");
        assert!(evaluation < 0.85 * trained, "rate {rate}: {evaluation} and {trained}");
        // Without a schedule, the noise keeps AdamW from converging further.
        assert!(evaluation < 0.35 * adamw, "rate {rate}: {evaluation} and {adamw}");
        assert!(evaluation < 0.06 * loss(&start(), &minimum));
        assert_eq!(
            bits(&parameters),
            bits(&training.parameters(0).unwrap()),
            "requesting evaluation weights changes nothing"
        );
    }
}

#[test]
fn prodigys_step_size_grows_from_far_too_small_to_the_right_order_of_magnitude() {
    for scale in [0.01_f32, 1.0, 100.0] {
        let minimum: Vec<f32> = normal(ELEMENTS, 1).iter().map(|value| value * scale).collect();
        let furthest = minimum.iter().fold(0.0_f32, |furthest, value| furthest.max(value.abs()));
        let mut training = training("prodigy", &[], &[ELEMENTS as u64], vec![0.0; ELEMENTS]);
        let estimate = |training: &LocalTraining| {
            let bytes = training.slot(0, "distance").unwrap().unwrap().concat();
            f64::from_le_bytes(bytes.try_into().expect("one number"))
        };
        let mut before = estimate(&training);
        assert_eq!(before, 1e-6);
        for round in 1..=200 {
            let gradient = gradient(&training.parameters(0).unwrap(), &minimum);
            // The learning rate is the same for all scales.
            training.round(&context(round, 1.0), &[&gradient]).unwrap();
            let now = estimate(&training);
            assert!(now >= before, "round {round}: from {before} to {now}");
            before = now;
        }
        let left = loss(&training.parameters(0).unwrap(), &minimum) / loss(&vec![0.0; ELEMENTS], &minimum);
        println!("scale {scale}: step size {before:.2e}, loss {left:.1e} of the first");
        // The distance is about `scale` in each direction, and `furthest` in one; the estimate is a lower bound of it.
        assert!((0.1 * f64::from(scale)..f64::from(furthest)).contains(&before), "scale {scale}: {before}");
        assert!(left < 1e-3, "scale {scale}: {left}");
    }
}
