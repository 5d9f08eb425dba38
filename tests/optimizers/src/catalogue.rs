//! The catalogue of shipped optimizers: what is written there, and what the components say.

use serde::{Deserialize, Serialize};
use stepbox_sandbox::{Extent, Limits, Slot, TensorDescription};
use stepbox_server::Footprint;

/// The tensor that the catalogue's figures are for.
const SHAPE: [u64; 2] = [256, 256];

/// Workers that a server's memory is told for, and bytes of their gradients' elements (f32).
const WORKERS: u32 = 4;
const GRADIENT_BYTES: u64 = 4;

/// `optimizers/catalogue.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalogue {
    /// In the order of classes.
    pub optimizer: Vec<Entry>,
}

/// A shipped optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the component.
    pub name: String,
    /// What it needs of the contract.
    pub class: String,
    /// The paper, and whose variant of it.
    pub reference: String,
    /// State, as `name: type extent`.
    pub slots: Vec<String>,
    /// Memory in the sandbox for a parameter, itself included, rounded to hundredths.
    pub bytes_per_parameter: f64,
    /// Memory of a server with four workers for a parameter in a round, rounded likewise.
    pub server_bytes_per_parameter: f64,
    /// Passes over a tensor, an evaluation phase last.
    pub phases: Vec<String>,
}

impl Catalogue {
    /// As it is written.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn written() -> Self {
        let path = crate::repository().join("optimizers/catalogue.toml");
        toml::from_str(&std::fs::read_to_string(path).expect("the repository has a catalogue")).expect("it is valid")
    }

    /// The same with what the components say now.
    ///
    /// # Panics
    /// If a component is missing or refuses the tensor.
    pub fn renewed(mut self) -> Self {
        for entry in &mut self.optimizer {
            let component = crate::admit(&entry.name, Limits::default());
            let settings = component.configure(None, &[]).expect("defaults are acceptable");
            let tensor = TensorDescription { name: "matrix".into(), shape: SHAPE.to_vec(), ..Default::default() };
            let plan = component.plan(&settings, &tensor).expect("it takes a matrix");
            entry.slots = plan.slots.iter().map(described).collect();
            let rounded = |bytes: f64| (bytes * 100.0).round() / 100.0;
            entry.bytes_per_parameter = rounded(plan.bytes_per_parameter());
            entry.server_bytes_per_parameter = rounded(Footprint::of(&plan, WORKERS, GRADIENT_BYTES).in_a_round());
            entry.phases = plan.phases.iter().map(|phase| phase.name.clone()).chain(plan.evaluation).collect();
        }
        self
    }

    /// As the table in `docs/optimizers.md`.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| optimizer | class | state | bytes a parameter | on a server | phases | reference, variant |\n",
        );
        table.push_str("|---|---|---|---|---|---|---|\n");
        for Entry { name, class, reference, slots, bytes_per_parameter, server_bytes_per_parameter, phases } in
            &self.optimizer
        {
            let list = |items: &[String]| if items.is_empty() { "none".into() } else { items.join("; ") };
            table.push_str(&format!(
                "| {name} | {class} | {} | {bytes_per_parameter} | {server_bytes_per_parameter} | {} | {reference} |\n",
                list(slots),
                list(phases)
            ));
        }
        table
    }
}

fn described(slot: &Slot) -> String {
    let extent = match &slot.extent {
        Extent::PerElement => "per element".into(),
        Extent::PerRun(run) => format!("per {run} elements"),
        Extent::PerRow => "per row".into(),
        Extent::PerColumn => "per column".into(),
        Extent::Scalar => "once".into(),
        Extent::Explicit(shape) => shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × "),
    };
    format!("{}: {} {extent}", slot.name, format!("{:?}", slot.element).to_lowercase())
}
