//! Hyperparameter values, checked against a component's schema.

use thiserror::Error;

use crate::contract::bindings::types;
use crate::contract::description::{Description, Domain, Hyperparameter};

/// Why hyperparameters were refused. The operator's fault.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SettingsError {
    /// The component has no such hyperparameter.
    #[error("{optimizer} has no hyperparameter {name}; it has: {known}")]
    Unknown {
        /// The optimizer.
        optimizer: String,
        /// What was set.
        name: String,
        /// What could be set.
        known: String,
    },
    /// The same hyperparameter was given twice.
    #[error("hyperparameter {0} is given twice")]
    Repeated(String),
    /// The text is not a value of the hyperparameter's type.
    #[error("hyperparameter {name} is {expected}; {given:?} is not")]
    Mistyped {
        /// The hyperparameter.
        name: String,
        /// Its type.
        expected: String,
        /// What was given.
        given: String,
    },
    /// The value is outside the hyperparameter's range.
    #[error("{name} = {given} is out of range: {range}")]
    OutOfRange {
        /// The hyperparameter, or `learning_rate`.
        name: String,
        /// What was given.
        given: String,
        /// What is allowed.
        range: String,
    },
}

/// Learning rate and hyperparameters for one deployment of a component: typed, complete and within their ranges.
#[derive(Debug, Clone)]
pub struct Settings {
    learning_rate: f64,
    values: Vec<types::Value>,
}

impl Settings {
    /// The learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    pub(crate) fn values(&self) -> &[types::Value] {
        &self.values
    }

    /// Checks what the operator wrote; what is not given takes its default.
    pub(crate) fn checked(
        description: &Description,
        learning_rate: Option<f64>,
        given: &[(String, String)],
    ) -> Result<Self, SettingsError> {
        for (position, (name, _)) in given.iter().enumerate() {
            if !description.hyperparameters.iter().any(|entry| entry.name == *name) {
                let known: Vec<_> = description.hyperparameters.iter().map(|entry| entry.name.as_str()).collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                return Err(SettingsError::Unknown { optimizer: description.name.clone(), name: name.clone(), known });
            }
            if given[..position].iter().any(|(earlier, _)| earlier == name) {
                return Err(SettingsError::Repeated(name.clone()));
            }
        }
        let rates = description.learning_rate;
        let learning_rate = learning_rate.unwrap_or(rates.default);
        if !rates.contains(learning_rate) {
            return Err(SettingsError::OutOfRange {
                name: "learning_rate".into(),
                given: learning_rate.to_string(),
                range: rates.to_string(),
            });
        }
        let values = description
            .hyperparameters
            .iter()
            .map(|entry| match given.iter().find(|(name, _)| *name == entry.name) {
                Some((_, text)) => parse(entry, text.trim()),
                None => Ok(default(&entry.domain)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { learning_rate, values })
    }
}

fn default(domain: &Domain) -> types::Value {
    match domain {
        Domain::Number(range) => types::Value::Number(range.default),
        Domain::Integer { default, .. } => types::Value::Integer(*default),
        Domain::Boolean { default } => types::Value::Boolean(*default),
        Domain::Choice { default, .. } => types::Value::Choice(*default),
    }
}

fn parse(entry: &Hyperparameter, text: &str) -> Result<types::Value, SettingsError> {
    let mistyped =
        |expected: String| SettingsError::Mistyped { name: entry.name.clone(), expected, given: text.to_owned() };
    let out_of_range =
        |range: String| SettingsError::OutOfRange { name: entry.name.clone(), given: text.to_owned(), range };
    match &entry.domain {
        Domain::Number(range) => {
            let number: f64 = text.parse().map_err(|_| mistyped("a number".into()))?;
            if range.contains(number) { Ok(types::Value::Number(number)) } else { Err(out_of_range(range.to_string())) }
        }
        Domain::Integer { minimum, maximum, .. } => {
            let integer: i64 = text.parse().map_err(|_| mistyped("an integer".into()))?;
            if (*minimum..=*maximum).contains(&integer) {
                Ok(types::Value::Integer(integer))
            } else {
                Err(out_of_range(format!("[{minimum}, {maximum}]")))
            }
        }
        Domain::Boolean { .. } => text.parse().map(types::Value::Boolean).map_err(|_| mistyped("true or false".into())),
        Domain::Choice { names, .. } => names
            .iter()
            .position(|name| name == text)
            .map(|position| types::Value::Choice(position as u32))
            .ok_or_else(|| mistyped(format!("one of {}", names.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::description::NumberRange;

    fn description() -> Description {
        let unit = |default| NumberRange {
            minimum: 0.0,
            maximum: 1.0,
            minimum_included: true,
            maximum_included: false,
            default,
        };
        let entry = |name: &str, domain| Hyperparameter {
            name: name.into(),
            documentation: String::new(),
            domain,
            per_group: true,
        };
        Description {
            name: "sample".into(),
            documentation: String::new(),
            learning_rate: unit(0.1),
            hyperparameters: vec![
                entry("beta", Domain::Number(unit(0.9))),
                entry("window", Domain::Integer { minimum: 1, maximum: 9, default: 3 }),
                entry("nesterov", Domain::Boolean { default: false }),
                entry("mode", Domain::Choice { names: vec!["slow".into(), "fast".into()], default: 0 }),
            ],
            needs_loss: false,
            largest_whole_tensor: None,
        }
    }

    fn settings(learning_rate: Option<f64>, given: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let given: Vec<_> = given.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Settings::checked(&description(), learning_rate, &given)
    }

    #[test]
    fn what_is_not_given_takes_its_default() {
        let settings = settings(None, &[("nesterov", "true"), ("mode", "fast")]).unwrap();
        assert_eq!(settings.learning_rate(), 0.1);
        assert!(matches!(
            settings.values(),
            [types::Value::Number(0.9), types::Value::Integer(3), types::Value::Boolean(true), types::Value::Choice(1)]
        ));
    }

    #[test]
    fn refusals_name_the_hyperparameter_and_what_is_allowed() {
        for (given, expected) in [
            (("gamma", "1"), "no hyperparameter gamma; it has: beta, window, nesterov, mode"),
            (("beta", "1"), "beta = 1 is out of range: [0, 1)"),
            (("beta", "NaN"), "beta = NaN is out of range"),
            (("beta", "much"), "beta is a number; \"much\" is not"),
            (("window", "10"), "window = 10 is out of range: [1, 9]"),
            (("nesterov", "yes"), "nesterov is true or false"),
            (("mode", "medium"), "one of slow, fast"),
        ] {
            let message = settings(None, &[given]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(settings(None, &[("beta", "0.1"), ("beta", "0.2")]).is_err());
        let message = settings(Some(1.5), &[]).unwrap_err().to_string();
        assert!(message.contains("learning_rate = 1.5 is out of range"), "{message}");
    }
}
