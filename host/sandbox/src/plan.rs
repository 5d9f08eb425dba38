//! What an optimizer needs for a tensor, checked.
//!
//! The contract can express more than this version of the sandbox runs. What it does not run is refused here by name
//! (docs/contract.md has the table), before anything is placed in memory.

use serde::Serialize;

use crate::contract::types;
use crate::error::SandboxError;
use crate::instance::shortened;
use crate::limits::DECLARATIONS;

/// A tensor of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorDescription {
    /// The key under which workers push and pull it.
    pub name: String,
    /// Extents, outermost first; row-major. Empty for a scalar.
    pub shape: Vec<u64>,
    /// The group the operator put it in, empty for none.
    pub group: String,
    /// Free labels.
    pub tags: Vec<String>,
    /// A number for this tensor that is the same on every shard and server.
    pub identity: u64,
}

impl TensorDescription {
    pub(crate) fn raw(&self) -> types::Tensor {
        types::Tensor {
            name: self.name.clone(),
            shape: self.shape.clone(),
            group: self.group.clone(),
            tags: self.tags.clone(),
            identity: self.identity,
        }
    }
}

/// What a slot holds before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initial {
    /// Zero.
    Zero,
    /// This number.
    Constant(f32),
    /// The parameter's value.
    Parameter,
}

/// State with one `f32` for each parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slot {
    /// Its name, by which a new version of the optimizer finds it.
    pub name: String,
    /// What it holds before the first step.
    pub initial: Initial,
}

/// What an optimizer needs for one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The slots, in the component's order.
    pub slots: Vec<Slot>,
    /// Name of its phase.
    pub phase: String,
}

impl Plan {
    /// Bytes of linear memory for each parameter: the parameter itself and its slots.
    pub fn bytes_per_parameter(&self) -> u64 {
        (1 + self.slots.len() as u64) * size_of::<f32>() as u64
    }

    /// Whether the state of an optimizer with the plan `older` can be kept under this one: the same slots, whatever
    /// they start with. The error says what differs.
    pub fn keeps_state_of(&self, older: &Plan) -> Result<(), String> {
        for slot in &self.slots {
            if !older.slots.iter().any(|other| other.name == slot.name) {
                return Err(format!("slot {} is new", slot.name));
            }
        }
        match older.slots.iter().find(|slot| !self.slots.iter().any(|other| other.name == slot.name)) {
            Some(slot) => Err(format!("slot {} is gone", slot.name)),
            None => Ok(()),
        }
    }

    /// Checks what a component returned for a tensor.
    pub(crate) fn checked(raw: types::TensorPlan, tensor: &str) -> Result<Self, SandboxError> {
        let refuse = |reason: String| SandboxError::Plan { tensor: tensor.into(), reason };
        let unsupported = |what: &str| SandboxError::Unsupported { tensor: tensor.into(), what: what.into() };
        let declarations = [raw.slots.len(), raw.scalars.len(), raw.accumulators.len(), raw.phases.len()];
        if declarations.iter().any(|count| *count > DECLARATIONS) {
            return Err(refuse(format!("more than {DECLARATIONS} slots, scalars, accumulators or phases")));
        }
        let phase = match raw.phases.as_slice() {
            [phase] if phase.purpose == types::Purpose::Update => shortened(phase.name.clone()),
            [] => return Err(refuse("it has no phase".into())),
            [_] => return Err(refuse("it has no phase of purpose update".into())),
            _ => return Err(unsupported("several phases")),
        };
        if !raw.accumulators.is_empty() {
            return Err(unsupported("accumulators"));
        }
        if !raw.scalars.is_empty() {
            return Err(unsupported("persisted scalars"));
        }
        if raw.granularity != types::Granularity::Elements {
            return Err(unsupported("a granularity other than elements"));
        }
        let mut slots: Vec<Slot> = Vec::with_capacity(raw.slots.len());
        for slot in raw.slots {
            let name = shortened(slot.name);
            if name.is_empty() || slots.iter().any(|other| other.name == name) {
                return Err(refuse(format!("slot {name:?} has no name, or that of another")));
            }
            if slot.element != types::ElementType::F32 || !matches!(slot.extent, types::Extent::PerElement) {
                return Err(unsupported("slots other than one f32 for each parameter"));
            }
            let initial = match slot.initial {
                types::Initial::Zero => Initial::Zero,
                types::Initial::Constant(value) => {
                    let value = value as f32;
                    if !value.is_finite() {
                        return Err(refuse(format!("slot {name} starts at {value}")));
                    }
                    Initial::Constant(value)
                }
                types::Initial::Parameter => Initial::Parameter,
            };
            slots.push(Slot { name, initial });
        }
        Ok(Self { slots, phase })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> types::TensorPlan {
        types::TensorPlan {
            slots: vec![slot("mean"), slot("variance")],
            scalars: Vec::new(),
            accumulators: Vec::new(),
            phases: vec![types::Phase { name: "update".into(), purpose: types::Purpose::Update }],
            granularity: types::Granularity::Elements,
        }
    }

    fn slot(name: &str) -> types::Slot {
        types::Slot {
            name: name.into(),
            element: types::ElementType::F32,
            extent: types::Extent::PerElement,
            initial: types::Initial::Zero,
        }
    }

    #[test]
    fn state_is_kept_if_and_only_if_the_slots_are_the_same() {
        let plan = |names: &[&str]| {
            Plan::checked(types::TensorPlan { slots: names.iter().map(|name| slot(name)).collect(), ..raw() }, "t")
                .unwrap()
        };
        assert_eq!(plan(&["a", "b"]).keeps_state_of(&plan(&["b", "a"])), Ok(()));
        assert_eq!(plan(&["a", "b"]).keeps_state_of(&plan(&["a"])), Err("slot b is new".into()));
        assert_eq!(plan(&["a"]).keeps_state_of(&plan(&["a", "b"])), Err("slot b is gone".into()));
    }

    #[test]
    fn plans_that_contradict_the_contract_are_refused() {
        let wrong = [
            types::TensorPlan { phases: Vec::new(), ..raw() },
            types::TensorPlan { slots: vec![slot("a"), slot("a")], ..raw() },
            types::TensorPlan { slots: vec![slot("")], ..raw() },
            types::TensorPlan { slots: vec![slot("a"); 65], ..raw() },
            types::TensorPlan {
                slots: vec![types::Slot { initial: types::Initial::Constant(f64::NAN), ..slot("a") }],
                ..raw()
            },
        ];
        for plan in wrong {
            assert!(matches!(Plan::checked(plan, "t"), Err(SandboxError::Plan { .. })));
        }
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        let beyond = [
            types::TensorPlan { granularity: types::Granularity::Tensor, ..raw() },
            types::TensorPlan { phases: vec![raw().phases[0].clone(); 2], ..raw() },
            types::TensorPlan { slots: vec![types::Slot { element: types::ElementType::Bf16, ..slot("a") }], ..raw() },
        ];
        for plan in beyond {
            assert!(matches!(Plan::checked(plan, "t"), Err(SandboxError::Unsupported { .. })));
        }
    }
}
