//! AMSGrad: Adam whose denominator never shrinks.
//!
//! Follows "On the Convergence of Adam and Beyond" (Reddi, Kale and Kumar, ICLR 2018, arXiv:1904.09237).
//! Implementations take the maximum of different quantities. `torch.optim.Adam(amsgrad=True)` takes it of the raw
//! running mean of squares and corrects it for bias afterwards; this is the default here. `optax.amsgrad` takes it of
//! the corrected running mean; set `corrected_maximum` for this variant. A corrected mean of few squares is as large as
//! the squares themselves, so with this variant the very first gradients count in full and may determine the
//! denominator forever.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

hyperparameters! {
    /// AMSGrad (Reddi, Kale and Kumar, arXiv:1904.09237), as torch.optim.Adam(amsgrad=True) computes it.
    pub struct AmsGrad {
        /// Decay of the running mean of gradients.
        beta1: f64 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of squared gradients.
        beta2: f64 = 0.999 in 0.0..1.0,
        /// Added to the denominator.
        epsilon: f32 = 1e-8 in 1e-30..1.0,
        /// Multiple of the parameter that is added to its gradient (L2 penalty).
        weight_decay: f32 = 0.0 in 0.0..,
        /// Whether the maximum is taken after the correction for bias (optax) and not before it (torch).
        corrected_maximum: bool = false,
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
    weight_decay: f32,
    rate: f32,
    /// Divides the running mean of squares before the maximum is taken; 1 if the correction follows the maximum.
    correction_before: f32,
    /// Divides the root of the maximum; 1 if the correction precedes the maximum.
    root_correction_after: f32,
}

impl Elementwise for AmsGrad {
    const NAME: &'static str = "amsgrad";
    const LEARNING_RATE: f64 = 1e-3;
    type State = [f32; 3];
    type Round = Round;

    fn slots(&self) -> [Slot; 3] {
        [Slot::zero("mean"), Slot::zero("variance"), Slot::zero("maximum")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> Round {
        let mean_correction = 1.0 - math::power(self.beta1, context.tensor_step);
        let variance_correction = 1.0 - math::power(self.beta2, context.tensor_step);
        let (before, after) =
            if self.corrected_maximum { (variance_correction, 1.0) } else { (1.0, variance_correction) };
        Round {
            beta1: self.beta1 as f32,
            gradient_share: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square_share: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            rate: (f64::from(context.learning_rate) / mean_correction) as f32,
            correction_before: before as f32,
            root_correction_after: after.sqrt() as f32,
        }
    }

    #[inline(always)]
    fn update(round: &Round, parameter: f32, gradient: f32, [mean, variance, maximum]: [f32; 3]) -> (f32, [f32; 3]) {
        let gradient = gradient + round.weight_decay * parameter;
        let mean = round.beta1 * mean + round.gradient_share * gradient;
        let variance = round.beta2 * variance + round.square_share * gradient * gradient;
        let candidate = variance / round.correction_before;
        let maximum = if candidate > maximum { candidate } else { maximum };
        let denominator = maximum.sqrt() / round.root_correction_after + round.epsilon;
        (parameter - round.rate * mean / denominator, [mean, variance, maximum])
    }
}

register!(AmsGrad);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_in_both_variants() {
        for corrected_maximum in [false, true] {
            let mut training = Native::new(AmsGrad { corrected_maximum, ..AmsGrad::default() }, vec![1.0, 1.0, 1.0]);
            training.round(0.1, &[2.0, -0.5, 0.0]);
            let [down, up, still] = training.parameters() else { unreachable!() };
            assert!((down - 0.9).abs() < 1e-6 && (up - 1.1).abs() < 1e-6, "{down} {up}");
            assert_eq!(*still, 1.0);
        }
    }

    #[test]
    fn the_maximum_outlives_the_gradient_that_made_it() {
        let mut training = Native::new(AmsGrad { beta2: 0.5, ..AmsGrad::default() }, vec![0.0]);
        training.round(0.1, &[8.0]);
        assert_eq!(training.slot("maximum"), Some(&[32.0][..]));
        training.round(0.1, &[1.0]);
        assert_eq!(training.slot("variance"), Some(&[16.5][..]));
        assert_eq!(training.slot("maximum"), Some(&[32.0][..]));
    }

    #[test]
    fn the_variants_part_after_a_large_first_gradient() {
        let step_after = |corrected_maximum| {
            let optimizer = AmsGrad { beta1: 0.0, beta2: 0.5, corrected_maximum, ..AmsGrad::default() };
            let mut training = Native::new(optimizer, vec![0.0]);
            training.round(0.0, &[4.0]);
            training.round(1.0, &[1.0]);
            -training.parameters()[0]
        };
        // Raw: maximum 8, corrected by 1 - 0.5². Corrected: 8 / 0.5 = 16, which remains the maximum.
        assert!((step_after(false) - (0.75_f32 / 8.0).sqrt()).abs() < 1e-6);
        assert!((step_after(true) - 0.25).abs() < 1e-6);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(AmsGrad::default(), vec![4.0, -4.0]);
        for _ in 0..3000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(0.05, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 1e-3));
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(AmsGrad::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
