//! Stochastic gradient Langevin dynamics draws from the posterior (Welling and Teh 2011).

use stepbox_optimizer_tests::context;

use crate::training;

/// Number of independent chains for each average.
const CHAINS: usize = 4096;

/// Draws from each chain, so far apart that a draw retains only exp(-5) of the preceding one.
const DRAWS: usize = 40;
const APART: u64 = 100;

/// Rounds until a chain retains only exp(-40) of its start.
const WARM_UP: u64 = 800;

/// How many standard errors a moment may deviate from its expected value.
const ERRORS: f64 = 5.0;

#[test]
fn chains_draw_from_the_posterior() {
    // 20 examples of variance 1 with these averages, and the prior N(0, 1/5): the posterior is N(20/25 average, 1/25).
    let averages = [-2.0_f32, 0.0, 0.5, 30.0];
    let precision = 25.0_f64;
    let rate = 0.004;
    // A step of finite size multiplies x - E[x] by 1 - a, a = rate * precision / 2, and adds the rate to its variance.
    let variance = rate / (1.0 - (1.0 - rate * precision / 2.0).powi(2));
    assert!((variance * precision - 1.0).abs() < 0.03, "the step is small enough");

    let elements = averages.len() * CHAINS;
    let given = [("data_points", "20"), ("weight_decay", "5")];
    let mut training = training("sgld", &given, &[elements as u64], vec![0.0; elements]);
    let mut draws: Vec<Vec<f64>> = Vec::new();
    for round in 1..=WARM_UP + APART * DRAWS as u64 {
        let parameters = training.parameters(0).unwrap();
        let gradient: Vec<f32> =
            parameters.iter().enumerate().map(|(index, value)| value - averages[index / CHAINS]).collect();
        training.round(&context(round, rate), &[&gradient]).unwrap();
        if round > WARM_UP && round % APART == 0 {
            let standard = |(index, value): (usize, f32)| {
                (f64::from(value) - 0.8 * f64::from(averages[index / CHAINS])) / variance.sqrt()
            };
            draws.push(training.parameters(0).unwrap().into_iter().enumerate().map(standard).collect());
        }
    }

    let assert_near = |what: &str, found: f64, expected: f64, deviation: f64, count: usize| {
        let error = deviation / (count as f64).sqrt();
        println!("{what}: {found:.4}, {:.1} standard errors from {expected}", (found - expected) / error);
        assert!((found - expected).abs() < ERRORS * error, "{what}: {found} instead of {expected}");
    };
    for (group, average) in averages.iter().enumerate() {
        let drawn = || draws.iter().flat_map(|draw| &draw[group * CHAINS..(group + 1) * CHAINS]);
        let count = drawn().count();
        // Moments of N(0, 1), and standard deviations of z, z², z³ and z⁴.
        for (power, (expected, variance)) in (1..).zip([(0.0, 1.0), (1.0, 2.0), (0.0, 15.0), (3.0, 96.0_f64)]) {
            let moment = drawn().map(|value| value.powi(power)).sum::<f64>() / count as f64;
            assert_near(&format!("moment {power} at {average}"), moment, expected, variance.sqrt(), count);
        }
    }
    // Chains are independent; neighboring chains are the most likely to correlate.
    for distance in [1, 2, 4, CHAINS] {
        let products = draws.iter().flat_map(|draw| draw.iter().zip(&draw[distance..]).map(|(one, other)| one * other));
        let products: Vec<f64> = products.collect();
        let correlation = products.iter().sum::<f64>() / products.len() as f64;
        assert_near(&format!("correlation over {distance}"), correlation, 0.0, 1.0, products.len());
    }
}
