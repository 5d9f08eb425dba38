//! SGLD: gradient descent with added noise that makes it sample from the posterior.
//!
//! Follows "Bayesian Learning via Stochastic Gradient Langevin Dynamics" (Welling and Teh, ICML 2011), equation 4: half
//! the learning rate times the gradient, plus normal noise whose variance is the learning rate. With gradients of the
//! mean loss per example and `data_points` examples, parameters are distributed as `exp(-energy / temperature)`, where
//! the energy is `data_points × loss + weight_decay / 2 × |parameters|²`. This is the posterior if the loss is the
//! negative log-likelihood. The distribution is exact in the limit of small learning rates. The noise comes from the
//! job's random stream, so it is the same for any cuts of a tensor and in repeated runs.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Stochastic gradient Langevin dynamics (Welling and Teh, ICML 2011).
    pub struct Sgld {
        /// How many examples the mean loss, whose gradient is pushed, stands for.
        data_points: f64 = 1.0 in 0.0..,
        /// Precision of the normal prior of parameters (L2 penalty).
        weight_decay: f64 = 0.0 in 0.0..,
        /// How far the noise spreads: 1 for the posterior, less for narrower distributions, 0 for plain descent.
        temperature: f64 = 1.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    random: Random,
    rate: f32,
    decay: f32,
    deviation: f32,
}

impl Optimizer for Sgld {
    const NAME: &'static str = "sgld";
    const LEARNING_RATE: f64 = 1e-3;
    type Round = Round;

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new())
    }

    fn begin(&self, _: usize, tensor: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<Round, String> {
        let rate = f64::from(context.learning_rate);
        Ok(Round {
            random: context.random(tensor),
            rate: (rate / 2.0 * self.data_points) as f32,
            decay: (rate / 2.0 * self.weight_decay) as f32,
            deviation: (rate * self.temperature).sqrt() as f32,
        })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let Round { random, rate, decay, deviation } = *round;
        block.update_with_normal(&random, [], |parameter, gradient, [], noise| {
            (parameter - (rate * gradient + decay * parameter - deviation * noise), [])
        })
    }
}

register!(Sgld);

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance of the parameters.
    fn moments(parameters: &[f32]) -> (f64, f64) {
        let count = parameters.len() as f64;
        let mean = parameters.iter().map(|parameter| f64::from(*parameter)).sum::<f64>() / count;
        let square = parameters.iter().map(|parameter| (f64::from(*parameter) - mean).powi(2)).sum::<f64>();
        (mean, square / count)
    }

    #[test]
    fn without_temperature_it_is_gradient_descent_at_half_the_rate() {
        let optimizer = Sgld { temperature: 0.0, weight_decay: 0.5, data_points: 4.0 };
        let mut training = Native::new(optimizer, vec![2.0, 0.0]);
        training.round(0.5, &[0.0, 1.0]);
        assert_eq!(training.parameters(), [1.75, -1.0]);
    }

    #[test]
    fn noise_has_the_learning_rate_as_its_variance() {
        let mut training = Native::new(Sgld::default(), vec![0.0; 40_000]);
        training.round(0.25, &[0.0; 40_000]);
        let (mean, variance) = moments(training.parameters());
        assert!(mean.abs() < 0.01 && (variance / 0.25 - 1.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn parameters_come_to_be_distributed_as_the_posterior() {
        // 50 examples of loss (x - 1)²/2 and a prior of precision 50: a posterior of mean 0.5 and variance 1/100. Steps
        // of finite size h increase the variance to 1/100 / (1 - 100 h/4).
        for (temperature, rate) in [(1.0, 1e-3), (0.25, 4e-3)] {
            let optimizer = Sgld { data_points: 50.0, weight_decay: 50.0, temperature };
            let mut training = Native::new(optimizer, vec![-1.0; 20_000]);
            for _ in 0..200 {
                let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
                training.round(rate, &gradient);
            }
            let (mean, variance) = moments(training.parameters());
            let expected = temperature / 100.0 / (1.0 - 100.0 * f64::from(rate) / 4.0);
            assert!((mean - 0.5).abs() < 0.005, "{mean}");
            assert!((variance / expected - 1.0).abs() < 0.05, "{variance} and not {expected}");
        }
    }

    #[test]
    fn seed_round_and_tensor_have_noise_of_their_own_and_a_repeated_run_the_same() {
        let train = |seed: u64, step: u64, identity: u64| {
            let mut training = Native::of_tensor(Sgld::default(), Tensor::new("t", &[8], identity), vec![0.0; 8]);
            training.round_in(&Context { seed, ..Context::of_round(step, 0.1) }, &[0.0; 8]);
            training.parameters().to_vec()
        };
        let one = train(1, 1, 1);
        assert_eq!(train(1, 1, 1), one);
        assert!([train(2, 1, 1), train(1, 2, 1), train(1, 1, 2)].iter().all(|other| *other != one));
    }

    #[test]
    fn cuts_change_no_bit() {
        let wave = |factor: f32| (0..13_000).map(|index| (index as f32 * factor).sin()).collect::<Vec<f32>>();
        let train = |slice: usize, block: usize| {
            let tensor = Tensor::new("t", &[200, 65], 1);
            let mut training = Native::of_tensor(Sgld::default(), tensor, wave(0.37)).cut(slice, block);
            (1..4).for_each(|round| training.round(0.1, &wave(round as f32)));
            training.parameters().to_vec()
        };
        let whole = train(1 << 20, 1 << 20);
        assert_eq!(train(4096, 4096), whole);
        assert_eq!(train(8192, 4096), whole);
    }
}
