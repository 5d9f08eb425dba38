//! The deployment file: what `deploy --config` reads. `docs/deployment.md` describes it.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use stepbox_client::{DeployOptions, Group, Schedule, ScheduleKind, TensorFilter};

use crate::files;
use crate::output::Failure;

/// A deployment has some dozen lines; a group for each layer of a deep model, some hundred.
const MAX_DEPLOYMENT_BYTES: usize = 1 << 20;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    learning_rate: Option<f64>,
    schedule: Option<ScheduleTable>,
    hyperparameters: Values,
    groups: Groups,
}

/// Hyperparameters as text, however they are written.
#[derive(Default)]
struct Values(Vec<(String, String)>);

/// Groups in the order of the file.
#[derive(Default)]
struct Groups(Vec<(String, GroupTable)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupTable {
    tensors: Tensors,
    #[serde(default)]
    hyperparameters: Values,
    #[serde(default = "one")]
    learning_rate_multiplier: f64,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tensors {
    keys: Vec<String>,
    tags: Vec<String>,
    minimum_axes: Option<u32>,
    maximum_axes: Option<u32>,
}

/// The table `[schedule]`: the fields of all kinds.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ScheduleTable {
    kind: Kind,
    warmup_rounds: u64,
    rounds: Option<u64>,
    final_ratio: Option<f64>,
    step_rounds: Option<u64>,
    gamma: Option<f64>,
    pct_start: Option<f64>,
    div_factor: Option<f64>,
    final_div_factor: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    Constant,
    Step,
    Cosine,
    Linear,
    OneCycle,
    InverseSquareRoot,
}

fn one() -> f64 {
    1.0
}

/// Reads a deployment file.
pub(crate) fn load(path: &Path) -> Result<DeployOptions, Failure> {
    let text = files::read_text(path, MAX_DEPLOYMENT_BYTES)?;
    parse(&text).map_err(|reason| Failure::here("deployment", format!("deployment file {}: {reason}", path.display())))
}

fn parse(text: &str) -> Result<DeployOptions, String> {
    let File { learning_rate, schedule, hyperparameters, groups } =
        toml::from_str(text).map_err(|error| error.to_string())?;
    let group = |(name, table): (String, GroupTable)| {
        let Tensors { keys, tags, minimum_axes, maximum_axes } = table.tensors;
        Group {
            name,
            tensors: TensorFilter { keys, tags, minimum_axes, maximum_axes },
            hyperparameters: table.hyperparameters.0,
            learning_rate_multiplier: table.learning_rate_multiplier,
        }
    };
    Ok(DeployOptions {
        learning_rate,
        schedule: schedule.map(ScheduleTable::schedule).transpose()?,
        hyperparameters: hyperparameters.0,
        groups: groups.0.into_iter().map(group).collect(),
    })
}

impl ScheduleTable {
    /// The schedule, if the fields that are set are those of its kind.
    pub(crate) fn schedule(mut self) -> Result<Schedule, String> {
        let kind = match self.kind {
            Kind::Constant => ScheduleKind::Constant,
            Kind::Step => ScheduleKind::Step {
                step_rounds: wanted("step", "step_rounds", self.step_rounds.take())?,
                gamma: self.gamma.take().unwrap_or(0.1),
            },
            Kind::Cosine => ScheduleKind::Cosine {
                rounds: wanted("cosine", "rounds", self.rounds.take())?,
                final_ratio: self.final_ratio.take().unwrap_or(0.0),
            },
            Kind::Linear => ScheduleKind::Linear {
                rounds: wanted("linear", "rounds", self.rounds.take())?,
                final_ratio: self.final_ratio.take().unwrap_or(0.0),
            },
            Kind::OneCycle => ScheduleKind::OneCycle {
                rounds: wanted("one-cycle", "rounds", self.rounds.take())?,
                pct_start: self.pct_start.take().unwrap_or(0.3),
                div_factor: self.div_factor.take().unwrap_or(25.0),
                final_div_factor: self.final_div_factor.take().unwrap_or(1e4),
            },
            Kind::InverseSquareRoot => ScheduleKind::InverseSquareRoot,
        };
        let left = [
            ("rounds", self.rounds.is_some()),
            ("final_ratio", self.final_ratio.is_some()),
            ("step_rounds", self.step_rounds.is_some()),
            ("gamma", self.gamma.is_some()),
            ("pct_start", self.pct_start.is_some()),
            ("div_factor", self.div_factor.is_some()),
            ("final_div_factor", self.final_div_factor.is_some()),
        ];
        match left.into_iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => {
                Err(format!("`{name}` means nothing to a schedule of this kind; see docs/deployment.md"))
            }
            None => Ok(Schedule { warmup_rounds: self.warmup_rounds, kind }),
        }
    }
}

fn wanted(kind: &str, name: &str, value: Option<u64>) -> Result<u64, String> {
    value.ok_or_else(|| format!("a schedule of kind {kind} needs `{name}`"))
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text(String);
        impl<'de> Deserialize<'de> for Text {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match toml::Value::deserialize(deserializer)? {
                    toml::Value::String(text) => Ok(Self(text)),
                    toml::Value::Integer(number) => Ok(Self(number.to_string())),
                    toml::Value::Float(number) => Ok(Self(number.to_string())),
                    toml::Value::Boolean(value) => Ok(Self(value.to_string())),
                    _ => Err(serde::de::Error::custom("a hyperparameter is a number, true, false or text")),
                }
            }
        }
        let values = in_order::<D, Text>(deserializer)?;
        Ok(Self(values.into_iter().map(|(name, Text(value))| (name, value)).collect()))
    }
}

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        in_order(deserializer).map(Self)
    }
}

/// A table's entries in the order of the file.
fn in_order<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<(String, T)>, D::Error> {
    struct Entries<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
        type Value = Vec<(String, T)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a table")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_map(Entries(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).expect_err("a file that cannot be meant")
    }

    #[test]
    fn a_file_says_everything_that_flags_can_and_more() {
        let options = parse(
            r#"
            learning_rate = 1e-3
            [schedule]
            kind = "cosine"
            warmup_rounds = 100
            rounds = 10_000
            [hyperparameters]
            weight_decay = 0.1
            beta1 = "0.9"
            nesterov = true
            window = 3
            [groups.no-decay]
            tensors = { maximum_axes = 1 }
            hyperparameters = { weight_decay = 0.0 }
            [groups.embeddings]
            tensors = { keys = ["*.embedding", "table?"], tags = ["embedding"], minimum_axes = 2 }
            learning_rate_multiplier = 0.5
            "#,
        )
        .expect("a deployment");
        assert_eq!(options.learning_rate, Some(1e-3));
        let kind = ScheduleKind::Cosine { rounds: 10_000, final_ratio: 0.0 };
        assert_eq!(options.schedule, Some(Schedule { warmup_rounds: 100, kind }));
        let texts = [("weight_decay", "0.1"), ("beta1", "0.9"), ("nesterov", "true"), ("window", "3")];
        assert_eq!(options.hyperparameters, texts.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let [no_decay, embeddings] = &options.groups[..] else { panic!("{:?}", options.groups) };
        assert_eq!((&*no_decay.name, no_decay.tensors.maximum_axes), ("no-decay", Some(1)));
        assert_eq!(no_decay.hyperparameters, [("weight_decay".to_owned(), "0".to_owned())]);
        assert_eq!((no_decay.learning_rate_multiplier, embeddings.learning_rate_multiplier), (1.0, 0.5));
        assert_eq!(embeddings.tensors.keys, ["*.embedding", "table?"]);
    }

    #[test]
    fn the_documented_file_is_one() {
        let document = include_str!("../../../docs/deployment.md");
        let (_, example) = document.split_once("```toml\n").expect("an example");
        let (example, _) = example.split_once("```").expect("its end");
        let options = parse(example).expect("a deployment");
        assert!(options.schedule.is_some() && options.groups[0].name == "no-decay");
    }

    #[test]
    fn groups_keep_the_order_of_the_file() {
        let names = ["zebra", "apple", "mango", "banana"];
        let text: String =
            names.iter().map(|name| format!("[groups.{name}]\ntensors = {{ maximum_axes = 1 }}\n")).collect();
        let groups = parse(&text).expect("a deployment").groups;
        assert_eq!(groups.iter().map(|group| &*group.name).collect::<Vec<_>>(), names);
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse("").expect("nothing set"), DeployOptions::default());
    }

    #[test]
    fn what_is_unknown_or_out_of_place_is_named() {
        for (text, expected) in [
            ("learning_rat = 1.0", "learning_rat"),
            ("[schedule]\nkind = 'cosin'", "cosin"),
            ("[schedule]\nkind = 'cosine'", "needs `rounds`"),
            ("[schedule]\nkind = 'step'", "needs `step_rounds`"),
            ("[schedule]\nkind = 'cosine'\nrounds = 3\ngamma = 0.1", "`gamma` means nothing"),
            ("[schedule]\nrounds = 3", "`rounds` means nothing"),
            ("[hyperparameters]\nbetas = [0.9, 0.99]", "a hyperparameter is a number"),
            ("[groups.a]\nhyperparameters = {}", "tensors"),
            ("[groups.a]\ntensors = { key = '*' }", "key"),
            ("[groups.a]\ntensors = {}\nlearning_rate = 1.0", "learning_rate"),
        ] {
            let message = refused(text);
            assert!(message.contains(expected), "{message}");
        }
    }
}
