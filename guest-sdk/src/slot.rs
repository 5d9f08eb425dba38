//! State that the server keeps for an optimizer: one `f32` a parameter for each slot.

/// What a slot holds before the first round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// Zero.
    Zero,
    /// This number.
    Constant(f64),
    /// The parameter's own first value.
    Parameter,
}

/// A named piece of state with one `f32` for each parameter. A new version of the optimizer that has a slot of the
/// same name finds its values there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    pub(crate) name: &'static str,
    pub(crate) initial: Initial,
}

impl Slot {
    /// Starts at zero.
    pub const fn zero(name: &'static str) -> Self {
        Self { name, initial: Initial::Zero }
    }

    /// Starts at a constant.
    pub const fn constant(name: &'static str, value: f64) -> Self {
        Self { name, initial: Initial::Constant(value) }
    }

    /// Starts as a copy of the parameters.
    pub const fn parameter(name: &'static str) -> Self {
        Self { name, initial: Initial::Parameter }
    }

    /// The slot's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The value of this slot for a parameter that starts at `parameter`.
    pub fn first_value(&self, parameter: f32) -> f32 {
        match self.initial {
            Initial::Zero => 0.0,
            Initial::Constant(value) => value as f32,
            Initial::Parameter => parameter,
        }
    }
}
