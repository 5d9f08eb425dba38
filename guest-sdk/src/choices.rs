//! Hyperparameters that take one of several names.

/// Declares an enumeration that a hyperparameter can have as its type, with the names that the operator chooses from.
///
/// ```
/// stepbox_guest::choices! {
///     /// How matrix updates are scaled.
///     pub enum Scaling {
///         /// By the ratio of rows to columns.
///         Shape = "shape",
///         /// No scaling.
///         Off = "off",
///     }
/// }
/// stepbox_guest::hyperparameters! {
///     /// What the optimizer does.
///     pub struct Example {
///         /// How updates are scaled.
///         scaling: Scaling = "shape",
///     }
/// }
/// assert_eq!(Example::default().scaling, Scaling::Shape);
/// ```
///
/// A default that is not one of the names does not compile:
///
/// ```compile_fail,E0080
/// stepbox_guest::choices! { enum Scaling { Shape = "shape", Off = "off" } }
/// stepbox_guest::hyperparameters! { struct Example { scaling: Scaling = "of" } }
/// ```
#[macro_export]
macro_rules! choices {
    (
        $(#[doc = $documentation:literal])*
        $visibility:vis enum $name:ident {
            $(
                $(#[doc = $choice_documentation:literal])*
                $choice:ident = $text:literal
            ),* $(,)?
        }
    ) => {
        $(#[doc = $documentation])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name {
            $(
                $(#[doc = $choice_documentation])*
                $choice,
            )*
        }

        impl $name {
            const ALL: &'static [Self] = &[$(Self::$choice),*];
            const NAMES: &'static [&'static str] = &[$($text),*];

            fn position(name: &str) -> usize {
                Self::NAMES.iter().position(|other| *other == name).expect("the default is one of the choices")
            }
        }

        impl $crate::Field for $name {
            type Literal = &'static str;

            const CHOICES: &'static [&'static str] = Self::NAMES;

            fn domain(default: &'static str, _bounds: impl ::core::ops::RangeBounds<&'static str>) -> $crate::Domain {
                $crate::Domain::Choice($crate::Choices { names: Self::NAMES, default: Self::position(default) })
            }

            fn from_literal(literal: &'static str) -> Self {
                Self::ALL[Self::position(literal)]
            }

            fn from_value(
                value: &$crate::Value,
                _domain: &$crate::Domain,
            ) -> ::core::result::Result<Self, ::std::string::String> {
                let chosen = match value {
                    $crate::Value::Choice(position) => Self::ALL.get(*position as usize).copied(),
                    _ => ::core::option::Option::None,
                };
                chosen.ok_or_else(|| ::std::format!("{value:?} is none of {:?}", Self::NAMES))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::{Choices, Domain, Hyperparameters, Value, hyperparameters};

    choices! {
        /// For the test.
        enum Norm {
            /// One.
            Euclidean = "euclidean",
            /// Another.
            Largest = "largest",
        }
    }

    hyperparameters! {
        /// For the test.
        struct Chosen {
            /// A choice.
            norm: Norm = "largest",
        }
    }

    #[test]
    fn choices_are_named_in_the_schema_and_sent_by_position() {
        let names: &[&str] = &["euclidean", "largest"];
        assert_eq!(Chosen::schema()[0].domain, Domain::Choice(Choices { names, default: 1 }));
        assert_eq!(Chosen::default().norm, Norm::Largest);
        assert_eq!(Chosen::from_values(&[Value::Choice(0)]), Ok(Chosen { norm: Norm::Euclidean }));
        assert!(Chosen::from_values(&[Value::Choice(2)]).is_err());
    }
}
