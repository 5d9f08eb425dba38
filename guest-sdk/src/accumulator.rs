//! Statistics that the server finishes over a row, a tensor or the whole model before a later phase reads them.

/// Over what contributions are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each row of the tensor by itself.
    Row,
    /// Each element of a row by itself, over all rows.
    Column,
    /// The tensor.
    Tensor,
    /// All tensors of a group.
    Group,
    /// All tensors.
    Model,
}

/// How contributions become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    /// Sum.
    Sum,
    /// Sum of squares.
    SumOfSquares,
    /// Largest absolute value, 0 where there is none.
    AbsoluteMaximum,
    /// Largest value, negative infinity where there is none.
    Maximum,
}

impl Combination {
    /// What no values at all give.
    pub(crate) fn nothing(self) -> f64 {
        match self {
            Self::Sum | Self::SumOfSquares | Self::AbsoluteMaximum => 0.0,
            Self::Maximum => f64::NEG_INFINITY,
        }
    }

    /// One value more.
    #[inline(always)]
    pub(crate) fn visit(self, so_far: f64, value: f64) -> f64 {
        match self {
            Self::Sum => so_far + value,
            Self::SumOfSquares => so_far + value * value,
            Self::AbsoluteMaximum => larger(so_far, value.abs()),
            Self::Maximum => larger(so_far, value),
        }
    }

    /// Two combined values together.
    #[inline(always)]
    pub(crate) fn join(self, left: f64, right: f64) -> f64 {
        match self {
            Self::Sum | Self::SumOfSquares => left + right,
            Self::AbsoluteMaximum | Self::Maximum => larger(left, right),
        }
    }
}

/// `f64::max` may return either of two zeros; this does not.
#[inline(always)]
fn larger(so_far: f64, value: f64) -> f64 {
    if value > so_far { value } else { so_far }
}

/// Who computes what is combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contributor {
    /// The optimizer, with [`Block::update_contributing`](crate::Block::update_contributing) and its kin.
    Optimizer,
    /// The server, from the parameters as they are right before the phase that reads it.
    Parameters,
    /// The server, from the reduced gradient.
    Gradients,
}

/// A statistic that is finished before a later phase reads it.
///
/// Declare each as a constant:
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
/// [`statistics`](crate::statistics). The SDK squares values and takes absolute values itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accumulator {
    pub(crate) name: &'static str,
    pub(crate) contributor: Contributor,
    pub(crate) combination: Combination,
    pub(crate) scope: Scope,
    pub(crate) contributed_in: usize,
    /// Where the author named one.
    read_from: Option<usize>,
}

impl Accumulator {
    /// One number for the tensor, contributed by the optimizer in phase 0 and read from phase 1 on.
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

    /// A sum.
    pub const fn sum(name: &'static str) -> Self {
        Self::new(name, Combination::Sum)
    }

    /// A sum of squares.
    pub const fn sum_of_squares(name: &'static str) -> Self {
        Self::new(name, Combination::SumOfSquares)
    }

    /// The largest absolute value.
    pub const fn absolute_maximum(name: &'static str) -> Self {
        Self::new(name, Combination::AbsoluteMaximum)
    }

    /// The largest value.
    pub const fn maximum(name: &'static str) -> Self {
        Self::new(name, Combination::Maximum)
    }

    /// Computed by the server from the parameters before phase 0, or before the phase that
    /// [`read_from`](Self::read_from) names.
    pub const fn of_parameters(self) -> Self {
        Self { contributor: Contributor::Parameters, ..self }
    }

    /// Computed by the server from the gradient before phase 0, or before the phase that
    /// [`read_from`](Self::read_from) names.
    pub const fn of_gradients(self) -> Self {
        Self { contributor: Contributor::Gradients, ..self }
    }

    /// One number for each row.
    pub const fn by_row(self) -> Self {
        Self { scope: Scope::Row, ..self }
    }

    /// One number for each column.
    pub const fn by_column(self) -> Self {
        Self { scope: Scope::Column, ..self }
    }

    /// One number for all tensors of a group.
    pub const fn over_group(self) -> Self {
        Self { scope: Scope::Group, ..self }
    }

    /// One number for all tensors.
    pub const fn over_model(self) -> Self {
        Self { scope: Scope::Model, ..self }
    }

    /// Contributed by the optimizer in this phase, counted from 0, and read from the next on.
    pub const fn contributed_in(self, phase: usize) -> Self {
        Self { contributed_in: phase, ..self }
    }

    /// Read from this phase on, counted from 0.
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
