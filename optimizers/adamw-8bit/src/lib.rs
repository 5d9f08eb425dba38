//! AdamW with two bytes of state per parameter.
//!
//! The arithmetic is that of `adamw` ("Decoupled Weight Decay Regularization", Loshchilov and Hutter,
//! arXiv:1711.05101). The moments are stored as in "8-bit Optimizers via Block-wise Quantization" (Dettmers et al.,
//! ICLR 2022, arXiv:2110.02861): one byte each, and one `f32` for each run of 256. As in the authors' bitsandbytes, the
//! moments of tensors with fewer than 4096 elements are stored as `f32`.
//!
//! Unlike bitsandbytes, this optimizer stores the *root* of the second moment. The moment itself would round to zero
//! for gradients that are a few thousand times smaller than the largest of their run, while their mean would not, and
//! such parameters would take unbounded steps. For the same reason a root above 0 never becomes 0.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

const MEAN: Slot = Slot::zero("mean");
const ROOT: Slot = Slot::zero("root");

/// Least number of elements of a tensor whose state is quantized: for smaller tensors there is little to gain.
const LEAST_QUANTISED: u64 = 4096;

hyperparameters! {
    /// AdamW (Loshchilov and Hutter, arXiv:1711.05101) with moments in eight bits (Dettmers et al., arXiv:2110.02861).
    pub struct AdamW8bit {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Share of a parameter that a learning rate of 1 would take away each round.
        weight_decay: f64 = 0.01 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    gradient_share: f32,
    beta2: f32,
    square_share: f32,
    epsilon: f32,
    decay: f32,
    rate: f32,
    root_correction: f32,
}

impl Optimizer for AdamW8bit {
    const NAME: &'static str = "adamw-8bit";
    const LEARNING_RATE: f64 = 1e-3;
    type Round = Round;

    fn plan(&self, tensor: &Tensor) -> Result<Plan, String> {
        let slots = if tensor.elements() < LEAST_QUANTISED {
            [MEAN, ROOT]
        } else {
            [MEAN.quantised(Code::Signed), ROOT.quantised(Code::Unsigned)]
        };
        Ok(Plan::new().slots(&slots))
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, _: &mut Shared<'_>) -> Result<Round, String> {
        let rate = f64::from(context.learning_rate);
        let mean_correction = 1.0 - math::power(self.beta1, context.tensor_step);
        let variance_correction = 1.0 - math::power(self.beta2, context.tensor_step);
        Ok(Round {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon,
            decay: (rate * self.weight_decay) as f32,
            rate: (rate / mean_correction) as f32,
            root_correction: variance_correction.sqrt() as f32,
        })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let round = *round;
        block.update([MEAN, ROOT], |parameter, gradient, [mean, root]| {
            let mean = round.beta1 * mean + round.gradient_share * gradient;
            let root = (round.beta2 * root * root + round.square_share * gradient * gradient).sqrt();
            let denominator = root / round.root_correction + round.epsilon;
            (parameter - (round.decay * parameter + round.rate * mean / denominator), [mean, root])
        })
    }
}

register!(AdamW8bit);

#[cfg(test)]
mod tests {
    use super::*;
    use optimizer_adamw::AdamW;

    const ELEMENTS: usize = 8192;

    fn noise(round: u64) -> Vec<f32> {
        let mut numbers = vec![0.0; ELEMENTS];
        Context::of_round(round, 0.0).random(&Tensor::default()).fill_normal(0, &mut numbers);
        numbers
    }

    fn loss(parameters: &[f32]) -> f64 {
        parameters.iter().map(|parameter| f64::from(parameter - 1.0).powi(2)).sum::<f64>() / parameters.len() as f64
    }

    #[test]
    fn state_takes_a_byte_for_each_moment_and_a_scale_for_each_run() {
        let training = Native::new(AdamW8bit::default(), vec![0.0; ELEMENTS]);
        let bytes: usize = ["mean", "mean_scale", "root", "root_scale"]
            .map(|name| training.slot_bytes(name).map_or(0, <[u8]>::len))
            .iter()
            .sum();
        assert_eq!(bytes, 2 * (ELEMENTS + ELEMENTS / 256 * 4));
    }

    #[test]
    fn small_tensors_are_trained_as_adamw_does() {
        let mut small = Native::new(AdamW8bit::default(), vec![1.0, -2.0, 3.0]);
        let mut adamw = Native::new(AdamW::default(), vec![1.0, -2.0, 3.0]);
        for round in 0..200 {
            let gradient = [(round as f32).sin(), (round as f32 * 1.7).cos() + 0.3, 0.0];
            small.round(0.01, &gradient);
            adamw.round(0.01, &gradient);
        }
        let near = small.parameters().iter().zip(adamw.parameters()).all(|(a, b)| (*a - *b).abs() <= 1e-5);
        assert!(near, "{:?}", small.parameters());
    }

    #[test]
    fn large_tensors_stay_near_adamw_and_come_as_far() {
        let start = noise(0);
        let mut quantised = Native::new(AdamW8bit { weight_decay: 0.0, ..AdamW8bit::default() }, start.clone());
        let mut adamw = Native::new(AdamW { weight_decay: 0.0, ..AdamW::default() }, start.clone());
        for round in 1..=300 {
            // A quadratic with noise of very different sizes within a run.
            let gradient = |parameters: &[f32]| -> Vec<f32> {
                let sizes = [1.0, 0.1, 0.01, 0.001].into_iter().cycle();
                let noise = noise(round);
                parameters.iter().zip(noise).zip(sizes).map(|((at, noise), size)| (at - 1.0 + noise) * size).collect()
            };
            let (ours, theirs) = (gradient(quantised.parameters()), gradient(adamw.parameters()));
            quantised.round(0.02, &ours);
            adamw.round(0.02, &theirs);
        }
        let apart: Vec<f32> = quantised.parameters().iter().zip(adamw.parameters()).map(|(a, b)| a - b).collect();
        let moved: Vec<f32> = adamw.parameters().iter().zip(&start).map(|(a, b)| a - b).collect();
        let distance = (statistics::sum_of_squares(&apart) / statistics::sum_of_squares(&moved)).sqrt();
        assert!(distance < 0.04, "{distance} of the way");
        let losses = [&start[..], quantised.parameters(), adamw.parameters()].map(loss);
        assert!(losses[1] - losses[2] < 0.005 * losses[0], "{losses:?}");
    }

    #[test]
    fn parameters_with_gradients_far_below_their_runs_largest_take_steps_of_the_usual_size() {
        for share in [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8] {
            let mut training =
                Native::new(AdamW8bit { weight_decay: 0.0, ..AdamW8bit::default() }, vec![0.0; ELEMENTS]);
            for round in 1..=100 {
                let before = training.parameters()[0];
                let mut gradient = noise(round);
                // Constant, except that every tenth round has no gradient.
                gradient[0] = if round % 10 == 0 { 0.0 } else { share };
                training.round(0.01, &gradient);
                let step = (training.parameters()[0] - before).abs();
                assert!(step < 0.02, "step {step} at {share}");
            }
        }
    }

    #[test]
    fn a_root_far_below_its_runs_largest_keeps_steps_within_bounds() {
        // The mean of an alternating gradient is small, so that the constant gradient's mean is not rounded away next
        // to it, but its root is.
        let mut quantised = Native::new(AdamW8bit { weight_decay: 0.0, ..AdamW8bit::default() }, vec![0.0; ELEMENTS]);
        let mut adamw = Native::new(AdamW { weight_decay: 0.0, ..AdamW::default() }, vec![0.0; ELEMENTS]);
        for round in 0..300 {
            let before = quantised.parameters()[1];
            let mut gradient = vec![0.0; ELEMENTS];
            gradient[0] = if round % 2 == 0 { 100.0 } else { -100.0 };
            gradient[1] = 1e-5;
            quantised.round(0.01, &gradient);
            adamw.round(0.01, &gradient);
            let step = (quantised.parameters()[1] - before).abs();
            assert!(step < 0.03, "step {step} in round {round}");
        }
        let (ours, theirs) = (quantised.parameters()[1], adamw.parameters()[1]);
        assert!(ours < 0.1 * theirs && ours > 2.0 * theirs, "{ours} for {theirs}");
    }

    #[test]
    fn cuts_change_no_bit() {
        let train = |slice: usize, block: usize| {
            let optimizer = AdamW8bit::default();
            let mut training =
                Native::of_tensor(optimizer, Tensor::new("t", &[64, 128], 1), noise(0)).cut(slice, block);
            (1..4).for_each(|round| training.round(0.1, &noise(round)));
            training.parameters().to_vec()
        };
        assert_eq!(train(4096, 4096), train(1 << 20, 1 << 20));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(AdamW8bit::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
