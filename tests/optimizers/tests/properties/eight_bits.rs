//! AdamW with 8-bit moments follows AdamW (Dettmers et al. 2022), with a quarter of its state.

use stepbox_optimizer_tests::context;

use crate::{differences, norm, normal, training};

const ELEMENTS: usize = 10_000;
const ROUNDS: u64 = 200;

/// The initial parameters, and the parameters after each round with learning rate 0.01.
fn trajectory(name: &str, gradient: impl Fn(u64, &[f32]) -> Vec<f32>) -> Vec<Vec<f32>> {
    let mut training = training(name, &[], &[ELEMENTS as u64], normal(ELEMENTS, 1));
    let mut trajectory = vec![training.parameters(0).unwrap()];
    for round in 1..=ROUNDS {
        let gradient = gradient(round, &trajectory[trajectory.len() - 1]);
        training.round(&context(round, 0.01), &[&gradient]).unwrap();
        trajectory.push(training.parameters(0).unwrap());
    }
    trajectory
}

/// The largest distance between the two over all rounds, as a fraction of the distance that AdamW has moved so far.
fn distance(gradient: impl Fn(u64, &[f32]) -> Vec<f32>) -> f64 {
    let [full, eight] = ["adamw", "adamw-8bit"].map(|name| trajectory(name, &gradient));
    let apart = |(full_now, eight_now): (&Vec<f32>, &Vec<f32>)| {
        norm(&differences(full_now, eight_now)) / norm(&differences(full_now, &full[0]))
    };
    full.iter().zip(&eight).skip(1).map(apart).fold(0.0, f64::max)
}

#[test]
fn it_stays_within_some_percent_of_adamw_for_200_rounds() {
    // Gradients of similar sizes, and gradients that differ by factors of e⁴ and e⁸ (for one in 20 pairs) within a run:
    // the largest gradient of a run sets the scale of all others.
    for (spread, bound) in [(0.0, 0.035), (1.0, 0.08), (2.0, 0.2)] {
        let sizes: Vec<f32> = normal(ELEMENTS, 2).iter().map(|value| (spread * value).exp()).collect();
        let of_sizes = |values: Vec<f32>| values.iter().zip(&sizes).map(|(value, size)| size * value).collect();
        let noisy =
            distance(|round, _| of_sizes(normal(ELEMENTS, 10 + round).iter().map(|noise| 0.3 + noise).collect()));
        let descent = distance(|_, parameters| of_sizes(parameters.iter().map(|parameter| parameter - 1.0).collect()));
        println!("spread {spread}: {noisy:.4} of the way with noise, {descent:.4} without");
        assert!(noisy < bound && descent < bound, "spread {spread}: {noisy} and {descent} of the way");
        // The two computations must still differ.
        assert!(noisy > 1e-3 && descent > 1e-3, "spread {spread}: {noisy} and {descent} of the way");
    }
}

#[test]
fn state_takes_two_bytes_a_parameter_and_two_scales_a_run() {
    let [full, eight] = ["adamw", "adamw-8bit"].map(|name| {
        let training = training(name, &[], &[1 << 20], vec![0.0; 1 << 20]);
        let bytes = |name: &str| training.slot(0, name).unwrap().unwrap().concat().len();
        training.plan(0).slots.iter().map(|slot| bytes(&slot.name)).sum::<usize>()
    });
    assert_eq!(full, 8 << 20);
    assert_eq!(eight, (2 << 20) + 2 * 4 * (1 << 20) / 256);
}
