//! Schedule-Free AdamW: AdamW that needs no schedule, because it evaluates an average of its iterates.
//!
//! Follows "The Road Less Scheduled" (Defazio et al., NeurIPS 2024, arXiv:2405.15682) in the variant of
//! `optax.contrib.schedule_free_adamw`. Workers compute gradients at the parameters, which are the paper's y, between
//! the fast sequence z and its weighted average x. x is the result to evaluate and to save at the end: it is computed
//! from y and z when evaluation weights are requested. An iterate's weight in the average is the largest learning rate
//! so far to the power of `weight_lr_power`, so that iterates of a warm-up count less.

#![forbid(unsafe_code)]

use std::ops::Bound::Excluded;
use stepbox_guest::prelude::*;

const FAST: Slot = Slot::parameter("z");
const VARIANCE: Slot = Slot::zero("variance");
const LARGEST_RATE: Slot = Slot::zero("largest_rate").of_type(ElementType::F64).scalar();
const WEIGHT_SUM: Slot = Slot::zero("weight_sum").of_type(ElementType::F64).scalar();

const EVALUATION: usize = 1;

hyperparameters! {
    /// Schedule-Free AdamW (Defazio et al., arXiv:2405.15682), as optax.contrib.schedule_free_adamw computes it.
    pub struct ScheduleFreeAdamW {
        /// Share of the average, against the fast sequence, in the parameters that gradients are computed at.
        beta1: f64 = 0.9 in (Excluded(0.0), Excluded(1.0)),
        /// Decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Share of a parameter that a learning rate of 1 would take away each round.
        weight_decay: f64 = 0.0 in 0.0..,
        /// Power of the largest learning rate so far that an iterate weighs in the average.
        weight_lr_power: f64 = 2.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    beta2: f32,
    square_share: f32,
    root_correction: f32,
    epsilon: f32,
    decay: f32,
    rate: f32,
    /// y is `beta1 × x + fast_share × z`, both before and after the step.
    fast_share: f32,
    /// The new y is `of_average × beta1 × x + of_fast × z`, with the old x and the new z.
    of_average: f32,
    of_fast: f32,
}

impl Optimizer for ScheduleFreeAdamW {
    const NAME: &'static str = "schedule-free-adamw";
    const LEARNING_RATE: f64 = 0.0025;
    type Round = Round;

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new().slots(&[FAST, VARIANCE, LARGEST_RATE, WEIGHT_SUM]).evaluation("average"))
    }

    fn begin(&self, phase: usize, _: &Tensor, context: &Context, shared: &mut Shared<'_>) -> Result<Round, String> {
        let rate = f64::from(context.learning_rate);
        let mut share = 0.0;
        if phase != EVALUATION {
            let [largest_rate, weight_sum] = shared.slots.write_all::<f64, 2>([LARGEST_RATE, WEIGHT_SUM])?;
            largest_rate[0] = if rate > largest_rate[0] { rate } else { largest_rate[0] };
            let weight = math::powf(largest_rate[0], self.weight_lr_power);
            weight_sum[0] += weight;
            // No iterate has a weight as long as the learning rate is zero.
            share = if weight_sum[0] > 0.0 { weight / weight_sum[0] } else { 0.0 };
        }
        let variance_correction = 1.0 - math::power(self.beta2, context.tensor_step);
        Ok(Round {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            root_correction: variance_correction.sqrt() as f32,
            epsilon: self.epsilon,
            decay: (rate * self.weight_decay) as f32,
            rate: rate as f32,
            fast_share: (1.0 - self.beta1) as f32,
            of_average: (1.0 - share) as f32,
            of_fast: (self.beta1 * share + (1.0 - self.beta1)) as f32,
        })
    }

    fn step(&self, round: &Round, phase: usize, block: &mut Block<'_>) -> Result<(), String> {
        let round = *round;
        if phase == EVALUATION {
            return block.evaluate([FAST], |parameter, [fast]| (parameter - round.fast_share * fast) / round.beta1);
        }
        block.update([FAST, VARIANCE], |parameter, gradient, [fast, variance]| {
            let variance = round.beta2 * variance + round.square_share * gradient * gradient;
            let denominator = variance.sqrt() / round.root_correction + round.epsilon;
            let average = parameter - round.fast_share * fast;
            let fast = fast - (round.decay * parameter + round.rate * gradient / denominator);
            (round.of_average * average + round.of_fast * fast, [fast, variance])
        })
    }
}

register!(ScheduleFreeAdamW);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_against_the_gradients_sign() {
        let mut training = Native::new(ScheduleFreeAdamW::default(), vec![1.0, 1.0, 1.0]);
        training.round(0.1, &[2.0, -300.0, 0.0]);
        let [down, up, still] = training.parameters() else { unreachable!() };
        assert!(
            (down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6 && (still - 1.0).abs() < 1e-6,
            "{down} {up} {still}"
        );
    }

    #[test]
    fn evaluation_weights_are_the_mean_of_the_fast_sequence() {
        let optimizer = ScheduleFreeAdamW { weight_decay: 0.1, ..ScheduleFreeAdamW::default() };
        let mut training = Native::new(optimizer, vec![1.0]);
        let mut fast = Vec::new();
        for round in 0..50 {
            training.round(0.02, &[(round as f32).sin() + 0.3]);
            fast.push(f64::from(training.slot("z").unwrap()[0]));
            let mean = fast.iter().sum::<f64>() / fast.len() as f64;
            assert!((f64::from(training.evaluation()[0]) - mean).abs() < 1e-5, "round {round}");
        }
        let parameters = training.parameters().to_vec();
        training.evaluation();
        assert_eq!(training.parameters(), parameters, "evaluation must not change parameters");
    }

    #[test]
    fn iterates_of_a_warm_up_count_less_and_those_at_rate_zero_nothing() {
        let mut training = Native::new(ScheduleFreeAdamW::default(), vec![1.0]);
        training.round(0.0, &[1.0]);
        assert!((training.evaluation()[0] - 1.0).abs() < 1e-6);
        training.round(0.1, &[1.0]);
        let first = training.slot("z").unwrap()[0];
        assert!((training.evaluation()[0] - first).abs() < 1e-6);
        training.round(0.3, &[1.0]);
        // The weights are 0.1² and 0.3².
        let expected = 0.1 * first + 0.9 * training.slot("z").unwrap()[0];
        assert!((training.evaluation()[0] - expected).abs() < 1e-6);
    }

    #[test]
    fn a_noisy_quadratic_goes_down_to_its_minimum_without_a_schedule() {
        let mut training = Native::new(ScheduleFreeAdamW::default(), vec![4.0, -4.0]);
        let context = Context::of_round(1, 0.0);
        let tensor = Tensor::new("noise", &[2], 1);
        for round in 0..5000 {
            let mut noise = [0.0; 2];
            Context { step: round, ..context }.random(&tensor).fill_normal(0, &mut noise);
            let gradient: Vec<f32> =
                training.parameters().iter().zip(noise).map(|(parameter, noise)| parameter - 1.0 + noise).collect();
            training.round(0.05, &gradient);
        }
        let evaluated = training.evaluation();
        assert!(evaluated.iter().all(|parameter| (parameter - 1.0).abs() < 0.05), "{evaluated:?}");
    }

    #[test]
    fn cuts_change_no_bit() {
        let wave = |factor: f32| (0..13_000).map(|index| (index as f32 * factor).sin()).collect::<Vec<f32>>();
        let train = |slice: usize, block: usize| {
            let optimizer = ScheduleFreeAdamW { weight_decay: 0.1, ..ScheduleFreeAdamW::default() };
            let tensor = Tensor::new("t", &[200, 65], 1);
            let mut training = Native::of_tensor(optimizer, tensor, wave(0.37)).cut(slice, block);
            (1..4).for_each(|round| training.round(0.1, &wave(round as f32)));
            (training.parameters().to_vec(), training.evaluation())
        };
        let whole = train(1 << 20, 1 << 20);
        assert_eq!(train(4096, 4096), whole);
        assert_eq!(train(8192, 4096), whole);
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(ScheduleFreeAdamW::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
