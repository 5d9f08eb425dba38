//! Prodigy: Adam that estimates its learning rate from the distance it has covered.
//!
//! Follows "Prodigy: An Expeditiously Adaptive Parameter-Free Learner" (Mishchenko and Defazio, ICML 2024,
//! arXiv:2306.06101), algorithm 4, in the variant of `optax.contrib.prodigy`: steps are corrected for bias, and the
//! estimate `d` of the distance to the solution is one number for the whole model. Its numerator and denominator are
//! sums over all tensors, which the server combines between the two phases. As in the authors' code, each tensor
//! contributes with its own learning rate if groups have different ones. All other hyperparameters that enter the sums
//! are set for the whole model. Tensors that are added to a running job have a separate distance. Leave the learning
//! rate at 1, or apply a schedule without warm-up to it.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

const MEAN: Slot = Slot::zero("mean");
const VARIANCE: Slot = Slot::zero("variance");
const GRADIENT_SUM: Slot = Slot::zero("gradient_sum");
const START: Slot = Slot::parameter("start");
const NUMERATOR: Slot = Slot::zero("numerator").of_type(ElementType::F64).scalar();
/// Starts at `initial_d`.
const DISTANCE: Slot = distance(0.0);

/// Sum of `gradient × (start - parameter)`, times the step length and the distance in units of the initial distance.
const PROGRESS: Accumulator = Accumulator::sum("progress").over_model();
/// Sum of the absolute values of `gradient_sum`.
const SIZE: Accumulator = Accumulator::sum("size").over_model();

/// Phase 0 processes the gradient and measures; phase 1 updates the distance and steps.
const PHASES: [&str; 2] = ["measure", "step"];

hyperparameters! {
    /// Prodigy (Mishchenko and Defazio, arXiv:2306.06101), as optax.contrib.prodigy computes it.
    pub struct Prodigy {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        #[model_wide]
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Decay of the sums that the distance is estimated from; 0 for the root of beta2.
        #[model_wide]
        beta3: f64 = 0.0 in 0.0..1.0,
        /// Added to the denominator, times the distance.
        epsilon: f64 = 1e-8 in 1e-30..1.0,
        /// What the distance is at first taken for: too small is safe.
        #[model_wide]
        initial_d: f64 = 1e-6 in 1e-12..1.0,
        /// Multiplies each estimate of the distance; the one to tune, if any.
        #[model_wide]
        d_coefficient: f64 = 1.0 in 0.0..,
        /// Share of a parameter that a step of length 1 would take away each round.
        weight_decay: f64 = 0.0 in 0.0..,
        /// Whether the gradients' sum leaves the learning rate out, for schedules that warm up.
        #[model_wide]
        safeguard_warmup: bool = false,
    }
}

/// Values that are the same for all parameters of a tensor in one phase of a round.
#[derive(Debug, Clone, Copy)]
pub enum Round {
    /// Phase 0; all values are computed with the old distance.
    Measure {
        /// The retained fractions of the mean, the variance and the sum of gradients.
        kept: [f32; 3],
        /// The factors of the gradient, its square and again the gradient when they are added to these.
        shares: [f32; 3],
        /// The factor of `gradient × (start - parameter)`.
        of_progress: f32,
    },
    /// Phase 1; `epsilon` is computed with the new distance, `rate` and `decay` with the old distance.
    Step {
        /// Step length.
        rate: f32,
        /// Step length times weight decay.
        decay: f32,
        /// Added to the denominator: epsilon times the distance.
        epsilon: f32,
    },
}

const fn distance(initial: f64) -> Slot {
    Slot::constant("distance", initial).of_type(ElementType::F64).scalar()
}

impl Optimizer for Prodigy {
    const NAME: &'static str = "prodigy";
    const LEARNING_RATE: f64 = 1.0;
    type Round = Round;

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new()
            .slots(&[MEAN, VARIANCE, GRADIENT_SUM, START, NUMERATOR, distance(self.initial_d)])
            .accumulators(&[PROGRESS, SIZE])
            .phases(&PHASES)
            .without_gradient(1))
    }

    fn begin(&self, phase: usize, _: &Tensor, context: &Context, shared: &mut Shared<'_>) -> Result<Round, String> {
        let d = shared.slots.read::<f64>(DISTANCE)?[0];
        let beta3 = if self.beta3 == 0.0 { self.beta2.sqrt() } else { self.beta3 };
        let mean_correction = 1.0 - math::power(self.beta1, context.tensor_step);
        let variance_correction = 1.0 - math::power(self.beta2, context.tensor_step);
        let rate = d * f64::from(context.learning_rate) * variance_correction.sqrt() / mean_correction;
        if phase == 0 {
            let of_sum = if self.safeguard_warmup { d } else { rate };
            return Ok(Round::Measure {
                kept: [self.beta1, self.beta2, beta3].map(|beta| beta as f32),
                shares: [(1.0 - self.beta1) * d, (1.0 - self.beta2) * d * d, of_sum * d / self.initial_d]
                    .map(|share| share as f32),
                of_progress: (d / self.initial_d * rate) as f32,
            });
        }
        let (progress, size) = (shared.combined.number(PROGRESS)?, shared.combined.number(SIZE)?);
        let [numerator, distance] = shared.slots.write_all::<f64, 2>([NUMERATOR, DISTANCE])?;
        numerator[0] = beta3 * numerator[0] + progress;
        let estimate = if size > 0.0 { self.d_coefficient * numerator[0] / size } else { 0.0 };
        distance[0] = if estimate > d { estimate } else { d };
        Ok(Round::Step {
            rate: rate as f32,
            decay: (rate * self.weight_decay) as f32,
            epsilon: (distance[0] * self.epsilon) as f32,
        })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        match *round {
            Round::Measure { kept, shares, of_progress } => block.update_contributing(
                [MEAN, VARIANCE, GRADIENT_SUM, START],
                [PROGRESS, SIZE],
                |parameter, gradient, [mean, variance, sum, start]| {
                    let mean = kept[0] * mean + shares[0] * gradient;
                    let variance = kept[1] * variance + shares[1] * gradient * gradient;
                    let sum = kept[2] * sum + shares[2] * gradient;
                    (parameter, [mean, variance, sum, start], [of_progress * gradient * (start - parameter), sum.abs()])
                },
            ),
            Round::Step { rate, decay, epsilon } => block.update([MEAN, VARIANCE], |parameter, _, [mean, variance]| {
                let step = decay * parameter + rate * mean / (variance.sqrt() + epsilon);
                (parameter - step, [mean, variance])
            }),
        }
    }
}

register!(Prodigy);

#[cfg(test)]
mod tests {
    use super::*;

    fn distance_of(training: &Native<Prodigy>) -> f64 {
        training.slot_of::<f64>("distance").unwrap()[0]
    }

    #[test]
    fn the_first_step_is_the_first_distance_along_the_gradients_sign() {
        let mut training = Native::new(Prodigy { initial_d: 1e-3, ..Prodigy::default() }, vec![1.0, 1.0, 1.0]);
        training.round(1.0, &[2.0, -0.5, 0.0]);
        // Moments are proportional to d and d²: mean / √variance = (1 - beta1) / √(1 - beta2), which the corrections
        // undo.
        let [down, up, still] = training.parameters() else { unreachable!() };
        assert!((down - 0.999).abs() < 1e-6 && (up - 1.001).abs() < 1e-6, "{down} {up}");
        assert_eq!(*still, 1.0);
        assert_eq!(distance_of(&training), 1e-3);
    }

    #[test]
    fn the_distance_grows_to_that_of_the_solution_and_no_rate_is_needed() {
        for target in [0.1, 10.0] {
            let mut training = Native::new(Prodigy::default(), vec![0.0; 4]);
            for _ in 0..2000 {
                let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - target).collect();
                training.round(1.0, &gradient);
            }
            let distance = distance_of(&training);
            let ratio = distance / f64::from(target);
            assert!(ratio > 0.05 && ratio < 2.0, "estimated {distance} for {target}");
            let near = training.parameters().iter().all(|parameter| (*parameter - target).abs() <= 0.05 * target);
            assert!(near, "for {target}: {:?}", training.parameters());
        }
    }

    #[test]
    fn all_tensors_share_one_distance() {
        let prodigy = Prodigy { initial_d: 0.01, ..Prodigy::default() };
        let mut model = NativeModel::new().with(prodigy, Tensor::new("far", &[1], 1), vec![0.0]).with(
            prodigy,
            Tensor::new("near", &[1], 2),
            vec![0.0],
        );
        for _ in 0..100 {
            let gradients =
                [10.0, 0.01].map(|target| if model.tensors()[0].parameters()[0] < target { -1.0 } else { 1.0 });
            model.round(1.0, &[&gradients[..1], &gradients[1..]]);
        }
        let distances = [0, 1].map(|tensor| distance_of(&model.tensors()[tensor]));
        assert_eq!(distances[0], distances[1]);
        assert!(distances[0] > 0.02, "{distances:?}");
    }

    #[test]
    fn tensors_of_different_learning_rates_share_one_distance() {
        let prodigy = Prodigy { initial_d: 0.01, ..Prodigy::default() };
        let mut model = NativeModel::new().with(prodigy, Tensor::new("fast", &[1], 1), vec![0.0]).with(
            prodigy,
            Tensor::new("slow", &[1], 2),
            vec![0.0],
        );
        for round in 1..=50 {
            let contexts = [1.0, 0.1].map(|rate| Context::of_round(round, rate));
            model.try_round(&contexts, &[Gradient::Dense(&[-1.0]), Gradient::Dense(&[-1.0])]).unwrap();
        }
        let [fast, slow] = [0, 1].map(|tensor| &model.tensors()[tensor]);
        assert_eq!(fast.slot_of::<f64>("numerator"), slow.slot_of::<f64>("numerator"));
        assert_eq!(distance_of(fast), distance_of(slow));
        assert!(distance_of(fast) > 0.02, "{}", distance_of(fast));
    }

    #[test]
    fn what_the_distance_is_made_of_is_set_for_the_whole_model() {
        let of_groups: Vec<_> =
            Prodigy::schema().iter().filter(|entry| entry.per_group).map(|entry| entry.name).collect();
        assert_eq!(of_groups, ["beta1", "epsilon", "weight_decay"]);
    }

    #[test]
    fn gradients_of_zeros_change_nothing() {
        let mut training = Native::new(Prodigy::default(), vec![3.0]);
        training.round(1.0, &[0.0]);
        assert_eq!((training.parameters()[0], distance_of(&training)), (3.0, 1e-6));
    }

    #[test]
    fn cuts_change_no_bit() {
        let wave = |factor: f32| (0..13_000).map(|index| (index as f32 * factor).sin()).collect::<Vec<f32>>();
        let train = |slice: usize, block: usize| {
            let prodigy = Prodigy { initial_d: 0.01, d_coefficient: 5.0, ..Prodigy::default() };
            let tensor = Tensor::new("t", &[200, 65], 1);
            let mut training = Native::of_tensor(prodigy, tensor, wave(0.37)).cut(slice, block);
            (0..20).for_each(|_| training.round(1.0, &wave(1.0)));
            (training.parameters().to_vec(), distance_of(&training))
        };
        let whole = train(1 << 20, 1 << 20);
        assert!(whole.1 > 0.01);
        assert_eq!(train(4096, 4096), whole);
        assert_eq!(train(8192, 4096), whole);
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(Prodigy::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
