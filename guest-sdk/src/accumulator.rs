//! Accumulators: statistics that the server combines over a row, a tensor or the whole model before a later phase reads
//! them.

/// The set over which contributions are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One value for each row of the tensor.
    Row,
    /// One value for each column of the tensor, over all rows.
    Column,
    /// One value for the tensor.
    Tensor,
    /// One value for all tensors of a group.
    Group,
    /// One value for all tensors of the model.
    Model,
}

/// How contributions are combined into one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    /// The sum.
    Sum,
    /// The sum of squares.
    SumOfSquares,
    /// The largest absolute value; 0 if there are no values.
    AbsoluteMaximum,
    /// The largest value; negative infinity if there are no values.
    Maximum,
}

impl Combination {
    /// The result for no values.
    pub(crate) fn nothing(self) -> f64 {
        match self {
            Self::Sum | Self::SumOfSquares | Self::AbsoluteMaximum => 0.0,
            Self::Maximum => f64::NEG_INFINITY,
        }
    }

    /// Includes one more value.
    #[inline(always)]
    pub(crate) fn visit(self, so_far: f64, value: f64) -> f64 {
        match self {
            Self::Sum => so_far + value,
            Self::SumOfSquares => so_far + value * value,
            Self::AbsoluteMaximum => larger(so_far, value.abs()),
            Self::Maximum => larger(so_far, value),
        }
    }

    /// Combines two results.
    #[inline(always)]
    pub(crate) fn join(self, left: f64, right: f64) -> f64 {
        match self {
            Self::Sum | Self::SumOfSquares => left + right,
            Self::AbsoluteMaximum | Self::Maximum => larger(left, right),
        }
    }
}

/// Like `f64::max`, but deterministic for two zeros of different sign: `f64::max` may return either.
#[inline(always)]
fn larger(so_far: f64, value: f64) -> f64 {
    if value > so_far { value } else { so_far }
}

/// Who computes the contributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contributor {
    /// The optimizer, with [`Block::update_contributing`](crate::Block::update_contributing) and similar methods.
    Optimizer,
    /// The server, from the parameters as they are immediately before the phase that reads the accumulator.
    Parameters,
    /// The server, from the reduced gradient.
    Gradients,
}

/// A statistic that is complete before a later phase reads it.
///
/// Declare each accumulator as a constant:
///
/// ```
/// use stepbox_guest::Accumulator;
/// // Contributed by the optimizer in phase 0 and read from phase 1 on.
/// const UPDATE_NORM: Accumulator = Accumulator::sum_of_squares("update_norm");
/// // Computed by the server before phase 0, over all tensors.
/// const GRADIENT_NORM: Accumulator = Accumulator::sum_of_squares("gradient_norm").of_gradients().over_model();
/// ```
///
/// Values are combined in `f64` and in an order that does not depend on how the server cuts a tensor: see
/// [`statistics`](crate::statistics). For sums of squares and largest absolute values, contribute the plain value: the
/// SDK squares it or takes its absolute value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accumulator {
    pub(crate) name: &'static str,
    pub(crate) contributor: Contributor,
    pub(crate) combination: Combination,
    pub(crate) scope: Scope,
    pub(crate) contributed_in: usize,
    /// The first phase that reads it, if the author set one.
    read_from: Option<usize>,
}

impl Accumulator {
    /// An accumulator with one value for the tensor, contributed by the optimizer in phase 0 and read from phase 1 on.
    pub const fn new(name: &'static str, combination: Combination) -> Self {
        Self {
            name,
            contributor: Contributor::Optimizer,
            combination,
            scope: Scope::Tensor,
            contributed_in: 0,
            read_from: None,
        }
    }

    /// A sum; otherwise as for [`new`](Self::new).
    pub const fn sum(name: &'static str) -> Self {
        Self::new(name, Combination::Sum)
    }

    /// A sum of squares; otherwise as for [`new`](Self::new).
    pub const fn sum_of_squares(name: &'static str) -> Self {
        Self::new(name, Combination::SumOfSquares)
    }

    /// The largest absolute value; otherwise as for [`new`](Self::new).
    pub const fn absolute_maximum(name: &'static str) -> Self {
        Self::new(name, Combination::AbsoluteMaximum)
    }

    /// The largest value; otherwise as for [`new`](Self::new).
    pub const fn maximum(name: &'static str) -> Self {
        Self::new(name, Combination::Maximum)
    }

    /// Makes the server compute it from the parameters, before phase 0 or before the phase set with
    /// [`read_from`](Self::read_from).
    pub const fn of_parameters(self) -> Self {
        Self { contributor: Contributor::Parameters, ..self }
    }

    /// Makes the server compute it from the gradient, before phase 0 or before the phase set with
    /// [`read_from`](Self::read_from).
    pub const fn of_gradients(self) -> Self {
        Self { contributor: Contributor::Gradients, ..self }
    }

    /// Keeps one value for each row.
    pub const fn by_row(self) -> Self {
        Self { scope: Scope::Row, ..self }
    }

    /// Keeps one value for each column.
    pub const fn by_column(self) -> Self {
        Self { scope: Scope::Column, ..self }
    }

    /// Combines over all tensors of the group.
    pub const fn over_group(self) -> Self {
        Self { scope: Scope::Group, ..self }
    }

    /// Combines over all tensors of the model.
    pub const fn over_model(self) -> Self {
        Self { scope: Scope::Model, ..self }
    }

    /// Sets the phase in which the optimizer contributes, counted from 0. The accumulator is read from the next phase
    /// on.
    pub const fn contributed_in(self, phase: usize) -> Self {
        Self { contributed_in: phase, ..self }
    }

    /// Sets the first phase that reads it, counted from 0.
    pub const fn read_from(self, phase: usize) -> Self {
        Self { read_from: Some(phase), ..self }
    }

    /// The first phase that reads it.
    pub(crate) fn first_read(&self) -> usize {
        match (self.read_from, self.contributor) {
            (Some(phase), _) => phase,
            (None, Contributor::Optimizer) => self.contributed_in + 1,
            (None, Contributor::Parameters | Contributor::Gradients) => 0,
        }
    }

    /// The accumulator's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the optimizer contributes to it in this phase.
    pub(crate) fn is_contributed_in(&self, phase: usize) -> bool {
        self.contributor == Contributor::Optimizer && self.contributed_in == phase
    }
}
