//! What a component says of itself, checked.

use serde::Serialize;

use crate::contract::bindings::types;
use crate::contract::text::shortened;
use crate::error::SandboxError;
use crate::limits::DECLARATIONS;

/// A range of numbers with a default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
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

impl NumberRange {
    /// Whether a value is within the range. NaN and infinities never are.
    pub fn contains(&self, value: f64) -> bool {
        let above = value > self.minimum || (self.minimum_included && value == self.minimum);
        let below = value < self.maximum || (self.maximum_included && value == self.maximum);
        value.is_finite() && above && below
    }
}

impl std::fmt::Display for NumberRange {
    /// In the notation of intervals: `[0, 1)`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = if self.minimum_included { '[' } else { '(' };
        let close = if self.maximum_included { ']' } else { ')' };
        let end = |number: f64| match number != 0.0 && number.abs() < 1e-6 {
            true => format!("{number:e}"),
            false => number.to_string(),
        };
        write!(formatter, "{open}{}, {}{close}", end(self.minimum), end(self.maximum))
    }
}

/// Type, bounds and default of a hyperparameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// A number.
    Number(NumberRange),
    /// An integer, both ends included.
    Integer {
        /// Lower end.
        minimum: i64,
        /// Upper end.
        maximum: i64,
        /// The value where the operator gives none.
        default: i64,
    },
    /// True or false.
    Boolean {
        /// The value where the operator gives none.
        default: bool,
    },
    /// One of several names.
    Choice {
        /// The names.
        names: Vec<String>,
        /// Position of the default.
        default: u32,
    },
}

/// One entry of the hyperparameter schema.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hyperparameter {
    /// Its name.
    pub name: String,
    /// For the operator who has to choose a value.
    pub documentation: String,
    /// What it may be.
    pub domain: Domain,
    /// Whether groups of tensors may have their own values.
    pub per_group: bool,
}

/// What an admitted component says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// What it does and what it follows.
    pub documentation: String,
    /// Bounds and default of the learning rate.
    pub learning_rate: NumberRange,
    /// What can be set, in the component's order.
    pub hyperparameters: Vec<Hyperparameter>,
    /// Whether it must be told the loss.
    pub needs_loss: bool,
    /// The most elements of a tensor that it visits whole; `None` for no limit of its own.
    pub largest_whole_tensor: Option<u64>,
}

impl Description {
    /// Checks what a component returned.
    pub(crate) fn checked(raw: types::Description) -> Result<Self, SandboxError> {
        let refuse = |reason: String| Err(SandboxError::Description(reason));
        if !is_optimizer_name(&raw.name) {
            return refuse(format!("name {:?} is not in lower case with dashes", shortened(raw.name)));
        }
        if raw.hyperparameters.len() > DECLARATIONS {
            return refuse(format!("{} hyperparameters, at most {DECLARATIONS}", raw.hyperparameters.len()));
        }
        let mut hyperparameters: Vec<Hyperparameter> = Vec::with_capacity(raw.hyperparameters.len());
        for entry in raw.hyperparameters {
            if !is_hyperparameter_name(&entry.name) {
                return refuse(format!("hyperparameter {:?} is not in snake case", shortened(entry.name)));
            }
            if hyperparameters.iter().any(|other| other.name == entry.name) {
                return refuse(format!("hyperparameter {} is declared twice", entry.name));
            }
            let domain = domain(entry.domain)
                .map_err(|reason| SandboxError::Description(format!("hyperparameter {}: {reason}", entry.name)))?;
            hyperparameters.push(Hyperparameter {
                name: entry.name,
                documentation: shortened(entry.documentation),
                domain,
                per_group: entry.per_group,
            });
        }
        let learning_rate = number_range(raw.learning_rate)
            .map_err(|reason| SandboxError::Description(format!("learning rate: {reason}")))?;
        let documentation = shortened(raw.documentation);
        let largest_whole_tensor = (raw.largest_whole_tensor > 0).then_some(raw.largest_whole_tensor);
        Ok(Self {
            name: raw.name,
            documentation,
            learning_rate,
            hyperparameters,
            needs_loss: raw.needs_loss,
            largest_whole_tensor,
        })
    }
}

fn is_optimizer_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && name.as_bytes()[0].is_ascii_lowercase()
}

fn is_hyperparameter_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && name.as_bytes()[0].is_ascii_lowercase()
}

fn number_range(raw: types::NumberRange) -> Result<NumberRange, String> {
    let range = NumberRange {
        minimum: raw.minimum,
        maximum: raw.maximum,
        minimum_included: raw.minimum_included,
        maximum_included: raw.maximum_included,
        default: raw.default,
    };
    if range.contains(range.default) { Ok(range) } else { Err(format!("default {} is not in {range}", range.default)) }
}

fn domain(raw: types::Domain) -> Result<Domain, String> {
    match raw {
        types::Domain::Number(range) => number_range(range).map(Domain::Number),
        types::Domain::Integer(range) => {
            let types::IntegerRange { minimum, maximum, default } = range;
            if (minimum..=maximum).contains(&default) {
                Ok(Domain::Integer { minimum, maximum, default })
            } else {
                Err(format!("default {default} is not in [{minimum}, {maximum}]"))
            }
        }
        types::Domain::Boolean(default) => Ok(Domain::Boolean { default }),
        types::Domain::Choice(choices) => {
            if choices.names.len() > DECLARATIONS || choices.default as usize >= choices.names.len() {
                return Err("too many choices, or the default is none of them".into());
            }
            let names = choices.names.into_iter().map(shortened).collect();
            Ok(Domain::Choice { names, default: choices.default })
        }
    }
}
