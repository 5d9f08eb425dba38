//! What an optimizer needs for a tensor, in words.

use stepbox_sandbox::{Extent, Granularity, Plan, Scope, Slot};

use crate::output::printable;

/// How it visits the tensor: phases, and what is combined for them.
pub(crate) fn visits(plan: &Plan) -> String {
    let how = match plan.granularity {
        Granularity::Elements => "all elements",
        Granularity::TouchedRows => "the rows that got a gradient",
        Granularity::Tensor => "the tensor whole",
    };
    let phases: Vec<_> = plan.phases.iter().map(|phase| printable(&phase.name)).collect();
    let mut text = format!("{how}, in {} ({})", count(phases.len(), "phase"), phases.join(", "));
    if let Some(evaluation) = &plan.evaluation {
        text.push_str(&format!("; evaluation weights by {}", printable(evaluation)));
    }
    if !plan.accumulators.is_empty() {
        let combined: Vec<_> = plan
            .accumulators
            .iter()
            .map(|accumulator| format!("{} over {}", printable(&accumulator.name), scope(accumulator.scope)))
            .collect();
        text.push_str(&format!("; combines {}", combined.join(", ")));
    }
    text
}

/// Each slot with its type and extent.
pub(crate) fn slots(plan: &Plan) -> Vec<String> {
    let text = |slot: &Slot| {
        let element = format!("{:?}", slot.element).to_lowercase();
        format!("{} ({element} {})", printable(&slot.name), extent(&slot.extent))
    };
    plan.slots.iter().map(text).collect()
}

fn extent(extent: &Extent) -> String {
    match extent {
        Extent::PerElement => "per element".into(),
        Extent::PerRun(run) => format!("per {run} elements"),
        Extent::PerRow => "per row".into(),
        Extent::PerColumn => "per column".into(),
        Extent::Scalar => "once".into(),
        Extent::Explicit(shape) => shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x "),
    }
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Row => "each row",
        Scope::Column => "each column",
        Scope::Tensor => "the tensor",
        Scope::Group => "the group",
        Scope::Model => "the model",
    }
}

fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}
