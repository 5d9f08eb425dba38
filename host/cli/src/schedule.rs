//! `stepbox schedule`: the learning rate of a server, shown or set while training runs.

use clap::Args;
use serde::Serialize;
use stepbox_client::{Schedule as Form, ScheduleKind, ScheduleStatus};

use crate::connection::Connection;
use crate::deploy::assignment;
use crate::deployment_file::ScheduleTable;
use crate::output::{Failure, Report};

/// Show or set the learning rate's schedule
#[derive(Args)]
#[command(after_help = "\
A schedule that is set starts at the same round for all keys: one that no gradient has been counted for. What it can
have is described in docs/deployment.md; `learning_rate` is its peak, and stays what it is where it is not set.

Examples:
  stepbox schedule --show --profile alice.toml
  stepbox schedule --set learning_rate=0.0001
  stepbox schedule --set kind=cosine --set rounds=5000 --set warmup_rounds=100 --set learning_rate=0.001")]
pub(crate) struct Schedule {
    /// Show the schedule and where it is
    #[arg(long, required_unless_present = "values", conflicts_with = "values")]
    show: bool,

    /// Set a part of the new schedule; several may be given
    #[arg(id = "values", long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    values: Vec<(String, String)>,

    #[command(flatten)]
    connection: Connection,
}

/// What the server has, or has been told.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    /// With `--show`.
    Shown {
        /// The rate of the highest round that is open.
        learning_rate: Option<f64>,
        schedule: Option<ScheduleStatus>,
        pending_schedule: Option<ScheduleStatus>,
    },
    /// With `--set`.
    Set(ScheduleStatus),
}

impl Schedule {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        if self.show {
            let status = self.connection.with_client(async |client| client.status_summary(false).await)?;
            let (schedule, pending_schedule) = (status.schedule, status.pending_schedule);
            return Ok(Outcome::Shown { learning_rate: status.learning_rate, schedule, pending_schedule });
        }
        let (peak, form) = parse(&self.values).map_err(|reason| Failure::here("schedule", reason))?;
        self.connection.with_client(async |client| client.set_schedule(peak, form).await).map(Outcome::Set)
    }
}

/// The peak, where it is set, and the schedule.
fn parse(values: &[(String, String)]) -> Result<(Option<f64>, Form), String> {
    let (mut peak, mut table) = (None, toml::Table::new());
    for (name, text) in values {
        if name == "learning_rate" {
            let number = text.parse().map_err(|_| format!("learning_rate is a number, {text:?} is not"))?;
            peak = Some(number);
            continue;
        }
        // As in a file, where only text is in quotes.
        let value = match (text.parse(), text.parse()) {
            (Ok(integer), _) => toml::Value::Integer(integer),
            (_, Ok(number)) => toml::Value::Float(number),
            _ => toml::Value::String(text.clone()),
        };
        if table.insert(name.clone(), value).is_some() {
            return Err(format!("`{name}` is set twice"));
        }
    }
    let table: ScheduleTable = table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
    Ok((peak, table.schedule()?))
}

impl Report for Outcome {
    fn text(&self) -> String {
        match self {
            Self::Set(set) => describe(set),
            Self::Shown { schedule: None, .. } => "no optimizer is deployed, so there is no schedule".to_owned(),
            Self::Shown { learning_rate, schedule: Some(schedule), pending_schedule } => {
                let now = learning_rate.map_or_else(String::new, |rate| format!("learning rate {rate}\n"));
                let pending = pending_schedule.as_ref().map(|pending| format!("\npending: {}", describe(pending)));
                format!("{now}{}{}", describe(schedule), pending.unwrap_or_default())
            }
        }
    }
}

/// One line for people.
pub(crate) fn describe(status: &ScheduleStatus) -> String {
    let ScheduleStatus { learning_rate: peak, schedule, from_round } = status;
    let kind = match schedule.kind {
        ScheduleKind::Constant => format!("constant at {peak}"),
        ScheduleKind::Step { step_rounds, gamma } => format!("{peak}, times {gamma} every {step_rounds} rounds"),
        ScheduleKind::Cosine { rounds, final_ratio } => {
            format!("cosine from {peak} to {} in {rounds} rounds", peak * final_ratio)
        }
        ScheduleKind::Linear { rounds, final_ratio } => {
            format!("linear from {peak} to {} in {rounds} rounds", peak * final_ratio)
        }
        ScheduleKind::OneCycle { rounds, pct_start, div_factor, final_div_factor } => format!(
            "one cycle in {rounds} rounds: from {} to {peak} in a share of {pct_start}, then to {}",
            peak / div_factor,
            peak / div_factor / final_div_factor
        ),
        ScheduleKind::InverseSquareRoot => format!("inverse square root from {peak}"),
    };
    let warmup = match schedule.warmup_rounds {
        0 | 1 => String::new(),
        rounds => format!(", with {rounds} rounds of warm-up"),
    };
    format!("{kind}{warmup}, from round {from_round} on")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(values: &[(&str, &str)]) -> Result<(Option<f64>, Form), String> {
        parse(&values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn values_are_those_of_a_file() {
        assert_eq!(set(&[("learning_rate", "1e-4")]), Ok((Some(1e-4), Form::default())));
        let kind = ScheduleKind::Step { step_rounds: 30, gamma: 0.5 };
        let values = [("kind", "step"), ("step_rounds", "30"), ("gamma", "0.5"), ("warmup_rounds", "5")];
        assert_eq!(set(&values), Ok((None, Form { warmup_rounds: 5, kind })));
    }

    #[test]
    fn what_is_none_is_told() {
        for (values, expected) in [
            (&[("learning_rate", "much")][..], "learning_rate is a number"),
            (&[("kind", "cosine"), ("rounds", "many")], "invalid type"),
            (&[("kind", "cosine"), ("kind", "step")], "set twice"),
            (&[("round", "3")], "round"),
        ] {
            let message = set(values).expect_err(expected);
            assert!(message.contains(expected), "{message}");
        }
    }
}
