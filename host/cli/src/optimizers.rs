//! `stepbox optimizers`: the catalogue of shipped optimizers.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::output::{Failure, Report};

/// Held against the components by a test.
const CATALOGUE: &str = include_str!("../../../optimizers/catalogue.toml");

/// List the optimizers that ship with Stepbox
#[derive(Args)]
#[command(after_help = "\
State and memory are for a matrix of 256 by 256 with default hyperparameters; `stepbox inspect` shows those of any
component.

Examples:
  stepbox optimizers
  stepbox optimizers --json | jq -r '.[] | select(.class == \"matrix\") | .name'")]
pub(crate) struct Optimizers {}

impl Optimizers {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let catalogue: Catalogue = toml::from_str(CATALOGUE)
            .map_err(|error| Failure::here("catalogue", format!("our own catalogue does not read: {error}")))?;
        Ok(Shipped(catalogue.optimizer))
    }
}

#[derive(Deserialize)]
struct Catalogue {
    optimizer: Vec<Entry>,
}

#[derive(Serialize)]
struct Shipped(Vec<Entry>);

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    class: String,
    /// State, as `name: type extent`.
    slots: Vec<String>,
    bytes_per_parameter: f64,
    /// On a server with four workers, in a round.
    server_bytes_per_parameter: f64,
    phases: Vec<String>,
    reference: String,
}

impl Report for Shipped {
    fn text(&self) -> String {
        let widest =
            |text: fn(&Entry) -> &str| self.0.iter().map(|entry| text(entry).chars().count()).max().unwrap_or(0);
        let (names, classes) = (widest(|entry| &entry.name), widest(|entry| &entry.class));
        let line = |entry: &Entry| {
            let Entry { name, class, bytes_per_parameter, reference, .. } = entry;
            format!("{name:names$}  {class:classes$}  {bytes_per_parameter:5.2} B  {reference}")
        };
        let mut lines = vec![format!("{:names$}  {:classes$}  memory   reference, variant", "name", "class")];
        lines.extend(self.0.iter().map(line));
        lines.join("\n")
    }
}
