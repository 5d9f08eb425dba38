//! NovoGrad: gradients divided by a running norm of their whole tensor, then averaged.
//!
//! Follows "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks" (Ginsburg et
//! al., arXiv:1905.11286), algorithm 1, in the variant of `optax.novograd`: the running norm starts at the norm of the
//! first gradient, each new gradient is added to the momentum in full, and the decay is added to the divided gradient.
//! The state is one number per parameter and one per tensor.

#![forbid(unsafe_code)]

use stepbox_guest::prelude::*;

const MOMENTUM: Slot = Slot::zero("momentum");
/// Running mean of the gradient's squared norm.
const SQUARE: Slot = Slot::zero("square").of_type(ElementType::F64).scalar();
const GRADIENT: Accumulator = Accumulator::sum_of_squares("gradient").of_gradients();

hyperparameters! {
    /// NovoGrad (Ginsburg et al., arXiv:1905.11286), as optax.novograd computes it.
    pub struct NovoGrad {
        /// Share of the momentum that is kept from round to round.
        beta1: f32 = 0.9 in 0.0..1.0,
        /// Decay of the running mean of the gradient's squared norm.
        beta2: f64 = 0.25 in 0.0..1.0,
        /// Added to the norm that is divided by.
        epsilon: f64 = 1e-6 in 1e-30..,
        /// Multiple of the parameter that is added to its divided gradient.
        weight_decay: f32 = 0.0 in 0.0..,
    }
}

/// Values that are the same for all parameters of a tensor in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    weight_decay: f32,
    rate: f32,
    norm: f32,
}

impl Optimizer for NovoGrad {
    const NAME: &'static str = "novograd";
    const LEARNING_RATE: f64 = 0.01;
    type Round = Round;

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new().slots(&[MOMENTUM, SQUARE]).accumulators(&[GRADIENT]))
    }

    fn begin(&self, _: usize, _: &Tensor, context: &Context, shared: &mut Shared<'_>) -> Result<Round, String> {
        let new = shared.combined.number(GRADIENT)?;
        let square = &mut shared.slots.write::<f64>(SQUARE)?[0];
        *square = if context.tensor_step == 1 { new } else { self.beta2 * *square + (1.0 - self.beta2) * new };
        Ok(Round {
            beta1: self.beta1,
            weight_decay: self.weight_decay,
            rate: context.learning_rate,
            norm: (square.sqrt() + self.epsilon) as f32,
        })
    }

    fn step(&self, round: &Round, _: usize, block: &mut Block<'_>) -> Result<(), String> {
        let round = *round;
        block.update([MOMENTUM], |parameter, gradient, [momentum]| {
            let momentum = round.beta1 * momentum + (gradient / round.norm + round.weight_decay * parameter);
            (parameter - round.rate * momentum, [momentum])
        })
    }
}

register!(NovoGrad);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_along_the_gradient_whatever_its_size() {
        for scale in [1.0, 1e6] {
            let mut training = Native::new(NovoGrad::default(), vec![1.0, 1.0, 1.0]);
            training.round(0.1, &[3.0 * scale, -4.0 * scale, 0.0]);
            let [down, up, still] = training.parameters() else { unreachable!() };
            assert!((down - 0.94).abs() < 1e-6 && (up - 1.08).abs() < 1e-6, "{down} {up}");
            assert_eq!(*still, 1.0);
        }
    }

    #[test]
    fn the_norm_starts_at_the_first_gradients_and_decays_towards_later_ones() {
        let mut training = Native::new(NovoGrad { beta2: 0.75, ..NovoGrad::default() }, vec![0.0, 0.0]);
        training.round(0.1, &[3.0, 4.0]);
        assert_eq!(training.slot_of::<f64>("square"), Some(&[25.0][..]));
        training.round(0.1, &[0.0, 1.0]);
        assert_eq!(training.slot_of::<f64>("square"), Some(&[19.0][..]));
    }

    #[test]
    fn weight_decay_is_added_after_the_division() {
        let optimizer = NovoGrad { weight_decay: 0.5, ..NovoGrad::default() };
        let mut training = Native::new(optimizer, vec![2.0, 0.0]);
        training.round(0.5, &[0.0, 1e3]);
        let [decayed, stepped] = training.parameters() else { unreachable!() };
        assert!(*decayed == 1.5 && (stepped + 0.5).abs() < 1e-6, "{decayed} {stepped}");
    }

    #[test]
    fn a_gradient_of_zeros_leaves_parameters() {
        let mut training = Native::new(NovoGrad::default(), vec![2.0, 0.0]);
        training.round(0.5, &[0.0, 0.0]);
        assert_eq!(training.parameters(), [2.0, 0.0]);
    }

    #[test]
    fn a_quadratic_goes_down_to_its_minimum() {
        let mut training = Native::new(NovoGrad::default(), vec![4.0, -4.0]);
        for round in 0..3000 {
            let gradient: Vec<f32> = training.parameters().iter().map(|parameter| parameter - 1.0).collect();
            training.round(if round < 2000 { 0.01 } else { 0.0001 }, &gradient);
        }
        assert!(training.parameters().iter().all(|parameter| (parameter - 1.0).abs() < 2e-2));
    }

    #[test]
    fn cuts_change_no_bit() {
        let wave = |factor: f32| (0..13_000).map(|index| (index as f32 * factor).sin()).collect::<Vec<f32>>();
        let train = |slice: usize, block: usize| {
            let optimizer = NovoGrad { weight_decay: 0.1, ..NovoGrad::default() };
            let tensor = Tensor::new("t", &[200, 65], 1);
            let mut training = Native::of_tensor(optimizer, tensor, wave(0.37)).cut(slice, block);
            (1..4).for_each(|round| training.round(0.1, &wave(round as f32)));
            training.parameters().to_vec()
        };
        let whole = train(1 << 20, 1 << 20);
        assert_eq!(train(4096, 4096), whole);
        assert_eq!(train(8192, 4096), whole);
    }

    #[test]
    fn without_a_gradient_nothing_is_divided_by_zero() {
        let mut training =
            Native::of_tensor(NovoGrad::lowest(), Tensor::new("m", &[2, 2], 1), vec![1.0, 0.0, -1.0, 0.0]);
        (0..3).for_each(|_| training.round(0.1, &[0.0, 0.0, 0.0, 1.0]));
        (0..3).for_each(|_| training.round(0.1, &[0.0; 4]));
    }
}
