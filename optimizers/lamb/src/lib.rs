//! LAMB: Adam's step, scaled for each tensor by the ratio of the parameters' norm to the step's norm.
//!
//! Follows "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes" (You et al., ICLR 2020,
//! arXiv:1904.00962), algorithm 2, in the variant of `optax.lamb`: both moments are corrected for bias, and the trust
//! ratio is applied to every tensor without clipping; it is 1 if one of the norms is 0. Gradients may first be clipped
//! by their norm over the whole model (`optax.clip_by_global_norm`).
//!
//! There are two phases: the first updates the moments and measures the step, the second takes it.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// Layer-wise adaptive Adam for large batches (You et al., arXiv:1904.00962), as optax.lamb computes it.
    pub struct Lamb {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-6 in 1e-30..1.0,
        /// Multiple of the parameter that is added to the step.
        weight_decay: f32 = 0.0 in 0.0..,
        /// Norm over all tensors above which gradients are scaled down to it; 0 for no clipping.
        #[model_wide]
        max_gradient_norm: f32 = 0.0 in 0.0..,
    }
}

const MEAN: Slot = Slot::zero("mean");
const VARIANCE: Slot = Slot::zero("variance");

const GRADIENT_NORM: Accumulator = Accumulator::sum_of_squares("gradient_norm").of_gradients().over_model();
const PARAMETER_NORM: Accumulator = Accumulator::sum_of_squares("parameter_norm").of_parameters().read_from(1);
const STEP_NORM: Accumulator = Accumulator::sum_of_squares("step_norm");

/// Values that are the same for all parameters of a tensor in one phase of a round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// The factor that clips gradients.
    clip: f32,
    beta1: f32,
    gradient_share: f32,
    beta2: f32,
    square_share: f32,
    /// The divisor of the mean, and the divisor of the root of the variance.
    mean_correction: f32,
    root_correction: f32,
    /// Learning rate times trust ratio.
    rate: f32,
}

impl Lamb {
    /// The direction in which the parameter moves, before scaling.
    #[inline(always)]
    fn direction(&self, round: &Round, parameter: f32, mean: f32, variance: f32) -> f32 {
        let denominator = variance.sqrt() / round.root_correction + self.epsilon;
        mean / round.mean_correction / denominator + self.weight_decay * parameter
    }
}

impl Optimizer for Lamb {
    const NAME: &'static str = "lamb";
    const LEARNING_RATE: f64 = 1e-3;
    type Round = Round;

    fn plan(&self, _tensor: &Tensor) -> Result<Plan, String> {
        let mut plan = Plan::new().slots(&[MEAN, VARIANCE]).accumulators(&[PARAMETER_NORM, STEP_NORM]);
        if self.max_gradient_norm > 0.0 {
            plan = plan.accumulators(&[GRADIENT_NORM]);
        }
        Ok(plan.phases(&["measure", "step"]).without_gradient(1))
    }

    fn begin(&self, phase: usize, _: &Tensor, context: &Context, shared: &mut Shared<'_>) -> Result<Round, String> {
        let mut clip = 1.0;
        if self.max_gradient_norm > 0.0 {
            let (norm, most) = (shared.combined.number(GRADIENT_NORM)?.sqrt(), f64::from(self.max_gradient_norm));
            clip = if norm >= most { most / norm } else { 1.0 };
        }
        let mut trust = 1.0;
        if phase == 1 {
            let parameters = shared.combined.number(PARAMETER_NORM)?.sqrt();
            let step = shared.combined.number(STEP_NORM)?.sqrt();
            trust = if parameters > 0.0 && step > 0.0 { parameters / step } else { 1.0 };
        }
        let correction = |beta: f64| 1.0 - math::power(beta, context.tensor_step);
        Ok(Round {
            clip: clip as f32,
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            mean_correction: correction(self.beta1) as f32,
            root_correction: correction(self.beta2).sqrt() as f32,
            rate: (f64::from(context.learning_rate) * trust) as f32,
        })
    }

    fn step(&self, round: &Round, phase: usize, block: &mut Block<'_>) -> Result<(), String> {
        let (lamb, round) = (*self, *round);
        if phase == 0 {
            return block.update_contributing(
                [MEAN, VARIANCE],
                [STEP_NORM],
                |parameter, gradient, [mean, variance]| {
                    let gradient = gradient * round.clip;
                    let mean = round.beta1 * mean + round.gradient_share * gradient;
                    let variance = round.beta2 * variance + round.square_share * gradient * gradient;
                    (parameter, [mean, variance], [lamb.direction(&round, parameter, mean, variance)])
                },
            );
        }
        block.update([MEAN, VARIANCE], |parameter, _, [mean, variance]| {
            (parameter - round.rate * lamb.direction(&round, parameter, mean, variance), [mean, variance])
        })
    }
}

register!(Lamb);

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Tensor {
        Tensor::new("matrix", &[2, 2], 0)
    }

    #[test]
    fn a_step_is_as_long_as_the_learning_rates_share_of_the_parameters() {
        let parameters = [3.0, 0.0, 0.0, 4.0];
        for scale in [1.0, 1e-3, 1e6] {
            let mut training =
                Native::of_tensor(Lamb { epsilon: 0.0, ..Lamb::default() }, matrix(), parameters.to_vec());
            training.round(0.1, &[1.0, -2.0, 3.0, 0.5].map(|gradient| gradient * scale));
            let moved: Vec<f32> = parameters.iter().zip(training.parameters()).map(|(old, new)| old - new).collect();
            assert!((statistics::sum_of_squares(&moved).sqrt() - 0.1 * 5.0).abs() < 1e-6, "{moved:?}");
        }
    }

    #[test]
    fn tensors_of_zeros_step_without_a_ratio() {
        let mut training = Native::of_tensor(Lamb::default(), matrix(), vec![0.0; 4]);
        training.round(0.1, &[1.0; 4]);
        assert!(training.parameters().iter().all(|parameter| (parameter + 0.1).abs() < 1e-6));
    }

    #[test]
    fn groups_cannot_clip_by_norms_of_their_own() {
        let clip = Lamb::schema().into_iter().find(|entry| entry.name == "max_gradient_norm").unwrap();
        assert!(!clip.per_group);
    }

    #[test]
    fn clipping_looks_at_all_tensors_and_changes_the_variance() {
        let lamb = Lamb { max_gradient_norm: 1.0, ..Lamb::default() };
        let mut model = NativeModel::new().with(lamb, Tensor::new("a", &[1], 1), vec![1.0]).with(
            lamb,
            Tensor::new("b", &[1], 2),
            vec![1.0],
        );
        model.round(0.1, &[&[3.0], &[4.0]]);
        let variance = |tensor: usize| model.tensors()[tensor].slot("variance").unwrap()[0];
        assert!((variance(0) - 0.001 * 0.6 * 0.6).abs() < 1e-7, "{}", variance(0));
        assert!((variance(1) - 0.001 * 0.8 * 0.8).abs() < 1e-7, "{}", variance(1));
    }

    #[test]
    fn cuts_change_no_bit() {
        let wave = |factor: f32| (0..40_000).map(|index| (index as f32 * factor).sin()).collect::<Vec<f32>>();
        let train = |slice: usize, block: usize| {
            let lamb = Lamb { max_gradient_norm: 1.0, weight_decay: 0.1, ..Lamb::default() };
            let mut training = Native::of_tensor(lamb, Tensor::new("t", &[200, 200], 1), wave(0.37)).cut(slice, block);
            (1..4).for_each(|round| training.round(0.1, &wave(round as f32)));
            training.parameters().to_vec()
        };
        let whole = train(1 << 20, 1 << 20);
        assert_eq!(train(4096, 4096), whole);
        assert_eq!(train(3 * 4096, 8192), whole);
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training = Native::of_tensor(Lamb::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
