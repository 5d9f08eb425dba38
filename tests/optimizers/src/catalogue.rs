//! The catalogue of shipped optimizers: its entries in the file, and the same entries derived from the components.

use serde::{Deserialize, Serialize};
use stepbox_sandbox::{Extent, Limits, Slot, TensorDescription};
use stepbox_server::Footprint;

/// The shape of the tensor for the catalogue's figures.
const SHAPE: [u64; 2] = [256, 256];

/// The number of workers for the server's memory, and the size in bytes of a gradient element (f32).
const WORKERS: u32 = 4;
const GRADIENT_BYTES: u64 = 4;

/// The contents of `optimizers/catalogue.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalogue {
    /// The shipped optimizers, ordered by class.
    pub optimizer: Vec<Entry>,
}

/// A shipped optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the component.
    pub name: String,
    /// What the optimizer needs of the contract: `elementwise`, for example.
    pub class: String,
    /// The paper, and the implementation whose variant the optimizer follows.
    pub reference: String,
    /// State, as `name: type extent`.
    pub slots: Vec<String>,
    /// Memory in the sandbox per parameter, including the parameter, rounded to hundredths.
    pub bytes_per_parameter: f64,
    /// Memory of a server with four workers per parameter in a round, rounded to hundredths.
    pub server_bytes_per_parameter: f64,
    /// Names of the phases, with an evaluation phase last.
    pub phases: Vec<String>,
}

impl Catalogue {
    /// Reads the catalogue from the file.
    ///
    /// # Panics
    /// If the file cannot be read or is invalid.
    pub fn written() -> Self {
        let path = crate::repository().join("optimizers/catalogue.toml");
        toml::from_str(&std::fs::read_to_string(path).expect("the repository has a catalogue")).expect("it is valid")
    }

    /// The same catalogue with the figures of the current components.
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

    /// The table in `docs/optimizers.md`.
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
