//! Hyperparameters: declared once as a struct, described to the server with type, bounds, default and documentation.

use std::ops::{Bound, RangeBounds};

/// A range of numbers with a default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NumberRange {
    /// Lower end; may be negative infinity.
    pub minimum: f64,
    /// Upper end; may be infinity.
    pub maximum: f64,
    /// Whether the value may equal `minimum`.
    pub minimum_included: bool,
    /// Whether the value may equal `maximum`.
    pub maximum_included: bool,
    /// The value where the operator gives none.
    pub default: f64,
}

/// A range of integers, both ends included, with a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegerRange {
    /// Lower end.
    pub minimum: i64,
    /// Upper end.
    pub maximum: i64,
    /// The value where the operator gives none.
    pub default: i64,
}

/// Names to choose from, with a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choices {
    /// All names.
    pub names: &'static [&'static str],
    /// Position of the default in `names`.
    pub default: usize,
}

/// Type, bounds and default of a hyperparameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Domain {
    /// A number.
    Number(NumberRange),
    /// An integer.
    Integer(IntegerRange),
    /// A boolean, with its default.
    Boolean(bool),
    /// One of several names.
    Choice(Choices),
}

/// A hyperparameter's value as the server sends it. The server has checked it against the [`Domain`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// For [`Domain::Number`].
    Number(f64),
    /// For [`Domain::Integer`].
    Integer(i64),
    /// For [`Domain::Boolean`].
    Boolean(bool),
    /// For [`Domain::Choice`]: a position in its names.
    Choice(u32),
}

/// One entry of the schema.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameter {
    /// Its name.
    pub name: &'static str,
    /// For the operator who has to choose a value.
    pub documentation: &'static str,
    /// What it may be.
    pub domain: Domain,
}

/// A struct of hyperparameters. Made by [`hyperparameters!`](crate::hyperparameters).
pub trait Hyperparameters: Default + 'static {
    /// The struct's documentation.
    const DOCUMENTATION: &'static str;

    /// Name, bounds, default and documentation of each, in the order of declaration.
    fn schema() -> Vec<Hyperparameter>;

    /// The struct from values in the schema's order. An error says which value does not fit.
    fn from_values(values: &[Value]) -> Result<Self, String>;
}

/// A type that a hyperparameter can have: `f32`, `f64`, `i64`, `bool`, and enumerations made by
/// [`choices!`](crate::choices).
pub trait Field: Sized {
    /// The type its bounds and default are written in.
    type Literal: Copy;

    /// Its domain.
    fn domain(default: Self::Literal, bounds: impl RangeBounds<Self::Literal>) -> Domain;

    /// Its value from a literal.
    fn from_literal(literal: Self::Literal) -> Self;

    /// Its value from the server's; `None` where that is of another type.
    fn from_value(value: &Value) -> Option<Self>;
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

    fn from_value(value: &Value) -> Option<Self> {
        f64::from_value(value).map(|number| number as f32)
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

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => Some(*number),
            _ => None,
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

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(integer) => Some(*integer),
            _ => None,
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

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Boolean(boolean) => Some(*boolean),
            _ => None,
        }
    }
}

/// Declares a struct of hyperparameters: each field has documentation, a type (`f32`, `f64`, `i64`, `bool` or one of
/// [`choices!`](crate::choices)), a default and, for numbers, the range outside of which the server refuses a value.
///
/// ```
/// stepbox_guest::hyperparameters! {
///     /// What the optimizer does, and the paper it follows.
///     pub struct Example {
///         /// Decay of the mean.
///         beta: f32 = 0.9 in 0.0..1.0,
///         /// Added to the denominator.
///         epsilon: f32 = 1e-8 in 0.0..,
///         /// Look ahead.
///         nesterov: bool = false,
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
                    },
                )*]
            }

            fn from_values(values: &[$crate::Value]) -> ::core::result::Result<Self, ::std::string::String> {
                let mut values = values.iter();
                let made = Self {
                    $($field: values
                        .next()
                        .and_then(<$type as $crate::Field>::from_value)
                        .ok_or_else(|| ::std::format!(
                            "hyperparameter {} is missing or of another type than {}",
                            ::core::stringify!($field),
                            ::core::stringify!($type),
                        ))?,)*
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
            nesterov: bool = true,
        }
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
