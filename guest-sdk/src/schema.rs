//! Hyperparameters: declared once as a struct, and described to the server with type, bounds, default and
//! documentation.

use std::ops::{Bound, RangeBounds};

/// A range of numbers, with a default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NumberRange {
    /// Lower bound; may be negative infinity.
    pub minimum: f64,
    /// Upper bound; may be infinity.
    pub maximum: f64,
    /// Whether the value may equal `minimum`.
    pub minimum_included: bool,
    /// Whether the value may equal `maximum`.
    pub maximum_included: bool,
    /// The value that applies if the operator sets none.
    pub default: f64,
}

impl NumberRange {
    /// Whether `number` is in the range.
    pub fn contains(&self, number: f64) -> bool {
        let above = number > self.minimum || self.minimum_included && number == self.minimum;
        let below = number < self.maximum || self.maximum_included && number == self.maximum;
        above && below
    }

    /// Rounds a number of the range to single precision. Returns `None` if rounding moves it out of the range:
    /// 0.99999999 becomes 1, which may be excluded. An included bound that is not an `f32` is rounded the same way
    /// before the comparison.
    fn rounded(&self, number: f64) -> Option<f32> {
        let rounded = number as f32;
        let is_end = |end: f64, included: bool| included && rounded == end as f32;
        let within = self.contains(f64::from(rounded))
            || is_end(self.minimum, self.minimum_included)
            || is_end(self.maximum, self.maximum_included);
        (rounded.is_finite() && within).then_some(rounded)
    }
}

/// A range of integers, both bounds included, with a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegerRange {
    /// Lower bound.
    pub minimum: i64,
    /// Upper bound.
    pub maximum: i64,
    /// The value that applies if the operator sets none.
    pub default: i64,
}

/// The names of a choice, with a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choices {
    /// The names, in the order of their positions.
    pub names: &'static [&'static str],
    /// Position of the default in `names`, counted from 0.
    pub default: usize,
}

/// Type, bounds and default of a hyperparameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Domain {
    /// A floating-point number within a range.
    Number(NumberRange),
    /// An integer within a range.
    Integer(IntegerRange),
    /// A boolean, with its default.
    Boolean(bool),
    /// One of several names.
    Choice(Choices),
}

impl Domain {
    fn lowest(&self) -> Value {
        match self {
            Self::Number(range) if range.minimum_included => Value::Number(range.minimum),
            Self::Number(range) => Value::Number(range.default),
            Self::Integer(range) => Value::Integer(range.minimum),
            Self::Boolean(default) => Value::Boolean(*default),
            Self::Choice(choices) => Value::Choice(choices.default as u32),
        }
    }
}

/// A hyperparameter's value as the server sends it, already checked against the [`Domain`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A value of [`Domain::Number`].
    Number(f64),
    /// A value of [`Domain::Integer`].
    Integer(i64),
    /// A value of [`Domain::Boolean`].
    Boolean(bool),
    /// A value of [`Domain::Choice`]: a position in its names, counted from 0.
    Choice(u32),
}

/// One entry of an optimizer's hyperparameter schema.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameter {
    /// The hyperparameter's name, in snake case.
    pub name: &'static str,
    /// Documentation for the operator who chooses a value.
    pub documentation: &'static str,
    /// Type, bounds and default.
    pub domain: Domain,
    /// Whether each group of tensors may have a separate value; otherwise one value applies to the whole model.
    pub per_group: bool,
}

/// A struct of hyperparameters, implemented by [`hyperparameters!`](crate::hyperparameters).
pub trait Hyperparameters: Default + 'static {
    /// The documentation of the struct: what the optimizer does and the paper it follows.
    const DOCUMENTATION: &'static str;

    /// The schema: name, domain and documentation of each hyperparameter, in the order of declaration.
    fn schema() -> Vec<Hyperparameter>;

    /// Builds the struct from values in the order of the schema. The error names the value that does not fit.
    fn from_values(values: &[Value]) -> Result<Self, String>;

    /// Returns the struct with each number at its lower bound (at its default if the bound is excluded). Tests use it
    /// to check that nothing is divided by zero there.
    fn lowest() -> Self {
        let values: Vec<Value> = Self::schema().iter().map(|entry| entry.domain.lowest()).collect();
        Self::from_values(&values).unwrap_or_default()
    }
}

/// A type that a hyperparameter can have: `f32`, `f64`, `i64`, `bool`, and enumerations declared with
/// [`choices!`](crate::choices).
pub trait Field: Sized {
    /// The type of the literals for its bounds and default.
    type Literal: Copy;

    /// The names to choose from; empty if the type is not a choice.
    const CHOICES: &'static [&'static str] = &[];

    /// The domain with this default and these bounds.
    fn domain(default: Self::Literal, bounds: impl RangeBounds<Self::Literal>) -> Domain;

    /// Converts a literal of the declaration.
    fn from_literal(literal: Self::Literal) -> Self;

    /// Converts a value that the server sent.
    ///
    /// # Errors
    /// The value has another type, or is outside the domain after rounding to this type.
    fn from_value(value: &Value, domain: &Domain) -> Result<Self, String>;
}

/// Whether a default, as written in the source, is one of these names. True if `names` is empty (the type is not a
/// choice).
#[doc(hidden)]
pub const fn is_choice(names: &[&str], written: &str) -> bool {
    let (written, mut name) = (written.as_bytes(), 0);
    while name < names.len() {
        let bytes = names[name].as_bytes();
        // `written` includes the quotation marks.
        let mut equal = if bytes.len() + 2 == written.len() { 0 } else { bytes.len() + 1 };
        while equal < bytes.len() && bytes[equal] == written[equal + 1] {
            equal += 1;
        }
        if equal == bytes.len() {
            return true;
        }
        name += 1;
    }
    names.is_empty()
}

fn number_domain(default: f64, bounds: impl RangeBounds<f64>) -> Domain {
    let (minimum, minimum_included) = match bounds.start_bound() {
        Bound::Included(end) => (*end, true),
        Bound::Excluded(end) => (*end, false),
        Bound::Unbounded => (f64::NEG_INFINITY, false),
    };
    let (maximum, maximum_included) = match bounds.end_bound() {
        Bound::Included(end) => (*end, true),
        Bound::Excluded(end) => (*end, false),
        Bound::Unbounded => (f64::INFINITY, false),
    };
    Domain::Number(NumberRange { minimum, maximum, minimum_included, maximum_included, default })
}

impl Field for f32 {
    type Literal = f64;

    fn domain(default: f64, bounds: impl RangeBounds<f64>) -> Domain {
        number_domain(default, bounds)
    }

    fn from_literal(literal: f64) -> Self {
        literal as f32
    }

    fn from_value(value: &Value, domain: &Domain) -> Result<Self, String> {
        let number = f64::from_value(value, domain)?;
        let Domain::Number(range) = domain else { return Ok(number as f32) };
        range.rounded(number).ok_or_else(|| {
            let rounded = number as f32;
            format!("{number} is kept in single precision as {rounded}, which is out of range: give one further inside")
        })
    }
}

impl Field for f64 {
    type Literal = f64;

    fn domain(default: f64, bounds: impl RangeBounds<f64>) -> Domain {
        number_domain(default, bounds)
    }

    fn from_literal(literal: f64) -> Self {
        literal
    }

    fn from_value(value: &Value, _domain: &Domain) -> Result<Self, String> {
        match value {
            Value::Number(number) => Ok(*number),
            _ => Err(format!("{value:?} is no number")),
        }
    }
}

impl Field for i64 {
    type Literal = i64;

    fn domain(default: i64, bounds: impl RangeBounds<i64>) -> Domain {
        let minimum = match bounds.start_bound() {
            Bound::Included(end) => *end,
            Bound::Excluded(end) => end.saturating_add(1),
            Bound::Unbounded => i64::MIN,
        };
        let maximum = match bounds.end_bound() {
            Bound::Included(end) => *end,
            Bound::Excluded(end) => end.saturating_sub(1),
            Bound::Unbounded => i64::MAX,
        };
        Domain::Integer(IntegerRange { minimum, maximum, default })
    }

    fn from_literal(literal: i64) -> Self {
        literal
    }

    fn from_value(value: &Value, _domain: &Domain) -> Result<Self, String> {
        match value {
            Value::Integer(integer) => Ok(*integer),
            _ => Err(format!("{value:?} is no integer")),
        }
    }
}

impl Field for bool {
    type Literal = bool;

    fn domain(default: bool, _bounds: impl RangeBounds<bool>) -> Domain {
        Domain::Boolean(default)
    }

    fn from_literal(literal: bool) -> Self {
        literal
    }

    fn from_value(value: &Value, _domain: &Domain) -> Result<Self, String> {
        match value {
            Value::Boolean(boolean) => Ok(*boolean),
            _ => Err(format!("{value:?} is no boolean")),
        }
    }
}

/// Declares a struct of hyperparameters. Each field has documentation, a type (`f32`, `f64`, `i64`, `bool` or an
/// enumeration declared with [`choices!`](crate::choices)), a default and, for numbers, a range; the server refuses
/// values outside the range. Start the range of a divisor above zero: otherwise a single parameter without a gradient
/// results in 0/0. `#[model_wide]` before a field refuses values for individual groups of tensors; use it for values
/// that enter sums over all groups.
///
/// ```
/// stepbox_guest::hyperparameters! {
///     /// What the optimizer does, and the paper it follows.
///     pub struct Example {
///         /// Decay rate of the mean.
///         beta: f32 = 0.9 in 0.0..1.0,
///         /// Added to the denominator.
///         epsilon: f32 = 1e-8 in 1e-30..,
///         /// Look ahead.
///         nesterov: bool = false,
///         /// Largest norm of the gradient over all tensors, to which it is scaled down; 0 disables clipping.
///         #[model_wide]
///         clip: f32 = 0.0 in 0.0..,
///     }
/// }
/// assert_eq!(Example::default().beta, 0.9);
/// ```
#[macro_export]
macro_rules! hyperparameters {
    (
        $(#[doc = $documentation:literal])*
        $visibility:vis struct $name:ident {
            $(
                $(#[doc = $field_documentation:literal])*
                // The capture is always empty; it repeats once per attribute present.
                $(#[model_wide] $model_wide:vis)?
                $field:ident : $type:ty = $default:literal $(in $bounds:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $documentation])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        $visibility struct $name {
            $(
                $(#[doc = $field_documentation])*
                pub $field: $type,
            )*
        }

        $(
            const _: () = ::core::assert!(
                $crate::is_choice(<$type as $crate::Field>::CHOICES, ::core::stringify!($default)),
                ::core::concat!("the default of ", ::core::stringify!($field), " is not one of its choices"),
            );
        )*

        impl ::core::default::Default for $name {
            fn default() -> Self {
                Self { $($field: <$type as $crate::Field>::from_literal($default),)* }
            }
        }

        impl $crate::Hyperparameters for $name {
            const DOCUMENTATION: &'static str = ::core::concat!($($documentation, "\n"),*);

            fn schema() -> ::std::vec::Vec<$crate::Hyperparameter> {
                ::std::vec![$(
                    $crate::Hyperparameter {
                        name: ::core::stringify!($field),
                        documentation: ::core::concat!($($field_documentation, "\n"),*),
                        domain: <$type as $crate::Field>::domain(
                            $default,
                            $crate::hyperparameters!(@bounds $($bounds)?),
                        ),
                        per_group: $crate::hyperparameters!(@per_group $($model_wide model_wide)?),
                    },
                )*]
            }

            fn from_values(values: &[$crate::Value]) -> ::core::result::Result<Self, ::std::string::String> {
                let (mut values, schema) = (values.iter(), <Self as $crate::Hyperparameters>::schema());
                let mut domains = schema.iter().map(|entry| &entry.domain);
                let made = Self {
                    $($field: values
                        .next()
                        .zip(domains.next())
                        .ok_or_else(|| "it is missing".into())
                        .and_then(|(value, domain)| <$type as $crate::Field>::from_value(value, domain))
                        .map_err(|reason: ::std::string::String| {
                            ::std::format!("hyperparameter {}: {reason}", ::core::stringify!($field))
                        })?,)*
                };
                match values.next() {
                    None => ::core::result::Result::Ok(made),
                    Some(_) => ::core::result::Result::Err("more values than hyperparameters".into()),
                }
            }
        }
    };
    (@bounds $bounds:expr) => { $bounds };
    (@bounds) => { .. };
    (@per_group $model_wide:vis model_wide) => { false };
    (@per_group) => { true };
}

#[cfg(test)]
mod tests {
    use super::*;

    hyperparameters! {
        /// For the test.
        struct Sample {
            /// A number.
            beta: f32 = 0.9 in 0.0..1.0,
            /// A whole one.
            window: i64 = 5 in 1..=10,
            /// A switch.
            #[model_wide]
            nesterov: bool = true,
        }
    }

    #[test]
    fn what_is_model_wide_is_not_per_group() {
        let per_group: Vec<bool> = Sample::schema().iter().map(|entry| entry.per_group).collect();
        assert_eq!(per_group, [true, true, false]);
    }

    #[test]
    fn numbers_that_rounding_takes_out_of_their_range_are_refused_by_name() {
        let of = |number| Sample::from_values(&[Value::Number(number), Value::Integer(2), Value::Boolean(false)]);
        let refused = of(0.999_999_99).unwrap_err();
        assert!(refused.contains("beta") && refused.contains("0.99999999"), "{refused}");
        assert!(of(0.999_999_9).is_ok_and(|made| made.beta < 1.0) && of(1e-50).is_ok());
        let ends = NumberRange {
            minimum: 0.1,
            maximum: f64::INFINITY,
            minimum_included: true,
            maximum_included: false,
            default: 0.3,
        };
        // 0.7 exceeds its nearest `f32`, which still counts as in range.
        assert_eq!(NumberRange { minimum: 0.7, ..ends }.rounded(0.7), Some(0.7));
        assert_eq!(ends.rounded(1e300), None);
        assert_eq!(NumberRange { minimum: 0.0, minimum_included: false, ..ends }.rounded(1e-50), None);
    }

    #[test]
    fn the_lowest_values_are_those_of_the_ranges() {
        assert_eq!(Sample::lowest(), Sample { beta: 0.0, window: 1, nesterov: true });
    }

    #[test]
    fn the_schema_carries_bounds_defaults_and_documentation() {
        let schema = Sample::schema();
        assert_eq!(schema[0].name, "beta");
        assert_eq!(schema[0].documentation.trim(), "A number.");
        let Domain::Number(range) = schema[0].domain else { panic!("{:?}", schema[0].domain) };
        assert_eq!((range.minimum, range.minimum_included), (0.0, true));
        assert_eq!((range.maximum, range.maximum_included), (1.0, false));
        assert_eq!(range.default, 0.9);
        assert_eq!(schema[1].domain, Domain::Integer(IntegerRange { minimum: 1, maximum: 10, default: 5 }));
        assert_eq!(schema[2].domain, Domain::Boolean(true));
    }

    #[test]
    fn values_are_taken_in_the_schemas_order() {
        let made = Sample::from_values(&[Value::Number(0.5), Value::Integer(2), Value::Boolean(false)]);
        assert_eq!(made, Ok(Sample { beta: 0.5, window: 2, nesterov: false }));
    }

    #[test]
    fn missing_surplus_and_mistyped_values_are_refused_by_name() {
        let missing = Sample::from_values(&[Value::Number(0.5)]).unwrap_err();
        assert!(missing.contains("window"), "{missing}");
        let mistyped = Sample::from_values(&[Value::Boolean(true)]).unwrap_err();
        assert!(mistyped.contains("beta"), "{mistyped}");
        let all = [Value::Number(0.5), Value::Integer(2), Value::Boolean(false), Value::Boolean(false)];
        assert!(Sample::from_values(&all).is_err());
    }
}
