//! Optimizers of any kind.

use crate::{Block, Context, Elementwise, Hyperparameters, NumberRange, Plan, Shared, State, Tensor};

/// An optimizer: what it needs for a tensor, and how it steps it.
///
/// Whoever treats each parameter by itself implements [`Elementwise`] instead, and gets this.
///
/// A round is one or more *phases*, passes over the tensor. Between them the server combines what was contributed to
/// [accumulators](crate::Accumulator). The server may cut the tensor into slices, which lie in different instances, and
/// slices into blocks: [`begin`](Self::begin) runs once for each phase and slice, [`step`](Self::step) for each of its
/// blocks. Write every step with the loops of [`Block`], and everything computed in `begin` from what all slices share:
/// then results do not depend on the cuts.
pub trait Optimizer: Hyperparameters {
    /// The optimizer's name, in lower case with dashes. It is signed with the component.
    const NAME: &'static str;

    /// The learning rate where the operator gives none.
    const LEARNING_RATE: f64;

    /// Whether the learning rate may be 0, as at the end of a schedule; not so where it is divided by.
    const LEARNING_RATE_MAY_BE_ZERO: bool = true;

    /// Whether [`Context::loss`] must be there.
    const NEEDS_LOSS: bool = false;

    /// The largest number of elements of a tensor that is visited whole; 0 for no limit of its own.
    const LARGEST_WHOLE_TENSOR: u64 = 0;

    /// What [`begin`](Self::begin) computes once for all elements.
    type Round;

    /// What it needs for this tensor. The same hyperparameters and tensor must give the same plan.
    ///
    /// # Errors
    /// Why it cannot step such a tensor, for the operator.
    fn plan(&self, tensor: &Tensor) -> Result<Plan, String>;

    /// A phase (its position in the plan) begins. Computes what is the same for all elements of a slice, reads combined
    /// accumulators, and writes slots that are per row, per column or scalar. Take transcendental functions from
    /// [`math`](crate::math).
    ///
    /// # Errors
    /// Why the round cannot be done, for the operator. Nothing of it remains.
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
    /// Why the round cannot be done, for the operator. Nothing of it remains.
    fn step(&self, round: &Self::Round, phase: usize, block: &mut Block<'_>) -> Result<(), String>;
}

/// The learning rates an optimizer takes.
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
