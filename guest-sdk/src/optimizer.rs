//! The trait for optimizers of any kind.

use crate::{Block, Context, Elementwise, Hyperparameters, NumberRange, Plan, Shared, State, Tensor};

/// An optimizer: what it needs for a tensor, and how it steps the tensor.
///
/// An optimizer that treats each parameter independently implements [`Elementwise`] instead, which provides this trait.
///
/// A round consists of one or more *phases*, which are passes over the tensor. Between phases the server combines the
/// contributions to [accumulators](crate::Accumulator). The server may cut the tensor into slices, which can be in
/// different instances, and cut slices into blocks. [`begin`](Self::begin) runs once for each phase and slice,
/// [`step`](Self::step) once for each block of the slice. Write every step with the loops of [`Block`], and compute
/// everything in `begin` from what all slices share: then results do not depend on the cuts.
pub trait Optimizer: Hyperparameters {
    /// The optimizer's name, in lowercase with dashes. The signed manifest carries the same name.
    const NAME: &'static str;

    /// The learning rate that applies if the operator sets none.
    const LEARNING_RATE: f64;

    /// Whether the learning rate may be 0, as at the end of a schedule. Set to `false` if the optimizer divides by it.
    const LEARNING_RATE_MAY_BE_ZERO: bool = true;

    /// Whether the optimizer requires [`Context::loss`].
    const NEEDS_LOSS: bool = false;

    /// The largest number of elements of a tensor visited whole that the optimizer can hold; 0 if it sets no limit.
    const LARGEST_WHOLE_TENSOR: u64 = 0;

    /// The values that [`begin`](Self::begin) computes once for all elements of a slice.
    type Round;

    /// Returns what the optimizer needs for this tensor. The same hyperparameters and tensor must give the same plan.
    ///
    /// # Errors
    /// The reason that the optimizer cannot step such a tensor, shown to the operator.
    fn plan(&self, tensor: &Tensor) -> Result<Plan, String>;

    /// Starts a phase; `phase` is its position in the plan. Computes the values that are the same for all elements of a
    /// slice, reads combined accumulators, and writes slots that are per row, per column or scalar. Use the
    /// transcendental functions of [`math`](crate::math).
    ///
    /// # Errors
    /// The reason that the round cannot run, shown to the operator. The server undoes the round.
    fn begin(
        &self,
        phase: usize,
        tensor: &Tensor,
        context: &Context,
        shared: &mut Shared<'_>,
    ) -> Result<Self::Round, String>;

    /// Runs a phase over a block.
    ///
    /// # Errors
    /// The reason that the round cannot run, shown to the operator. The server undoes the round.
    fn step(&self, round: &Self::Round, phase: usize, block: &mut Block<'_>) -> Result<(), String>;
}

/// The range of learning rates that an optimizer accepts.
pub(crate) fn learning_rates<O: Optimizer>() -> NumberRange {
    NumberRange {
        minimum: 0.0,
        maximum: f64::INFINITY,
        minimum_included: O::LEARNING_RATE_MAY_BE_ZERO,
        maximum_included: false,
        default: O::LEARNING_RATE,
    }
}

impl<E: Elementwise> Optimizer for E {
    const NAME: &'static str = E::NAME;
    const LEARNING_RATE: f64 = E::LEARNING_RATE;
    const LEARNING_RATE_MAY_BE_ZERO: bool = E::LEARNING_RATE_MAY_BE_ZERO;
    const NEEDS_LOSS: bool = E::NEEDS_LOSS;
    type Round = E::Round;

    fn plan(&self, _tensor: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new().slots(self.slots().as_ref()))
    }

    fn begin(
        &self,
        _phase: usize,
        tensor: &Tensor,
        context: &Context,
        _shared: &mut Shared<'_>,
    ) -> Result<E::Round, String> {
        Ok(Elementwise::begin(self, tensor, context))
    }

    #[inline]
    fn step(&self, round: &E::Round, _phase: usize, block: &mut Block<'_>) -> Result<(), String> {
        let round = *round;
        E::State::update_block(block, |parameter, gradient, state| E::update(&round, parameter, gradient, state))
    }
}
