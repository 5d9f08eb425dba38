//! What an optimizer needs for a tensor, checked before anything is placed in memory.

use serde::Serialize;

use crate::contract::bindings::types;
use crate::contract::declarations::{
    Accumulator, Combination, Contributor, Extent, Granularity, Initial, Scope, Slot, SlotType,
};
use crate::contract::geometry::Geometry;
use crate::contract::tensor::TensorDescription;
use crate::contract::text::shortened;
use crate::error::SandboxError;
use crate::limits::{CHUNK_ELEMENTS, DECLARATION_NAME_BYTES, DECLARATIONS};

/// One pass over a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Whether it reads the gradient.
    pub reads_gradient: bool,
}

/// What an optimizer needs for one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The slots, in the component's order.
    pub slots: Vec<Slot>,
    /// The accumulators, in the component's order.
    pub accumulators: Vec<Accumulator>,
    /// The phases that run in every round, in their order.
    pub phases: Vec<Phase>,
    /// Name of the phase that computes evaluation weights, where it has one. It comes after the others.
    pub evaluation: Option<String>,
    /// How the tensor may be cut.
    pub granularity: Granularity,
    /// Memory the optimizer allocates for itself to step this tensor, in bytes.
    pub work_bytes: u64,
    /// The tensor it is for.
    #[serde(skip)]
    pub geometry: Geometry,
}

impl Plan {
    /// Bytes that the tensor's slots take, all together.
    pub fn slot_bytes(&self) -> u64 {
        let elements = self.geometry.elements();
        let of = |slot: &Slot| {
            self.slot_elements(slot, 0, elements).unwrap_or(u64::MAX).saturating_mul(slot.element.bytes())
        };
        self.slots.iter().map(of).fold(0, u64::saturating_add)
    }

    /// Bytes of linear memory for each parameter, on average: the parameter itself and its slots.
    pub fn bytes_per_parameter(&self) -> f64 {
        size_of::<f32>() as f64 + self.slot_bytes() as f64 / self.geometry.elements().max(1) as f64
    }

    /// Whether a round is a single pass over each slice, which needs to know nothing of other slices.
    pub fn is_one_pass(&self) -> bool {
        self.phases.len() == 1 && self.accumulators.is_empty()
    }

    /// Whether a round can be an [exchange](crate::Exchange): one pass over the gradient, of elements or whole tensors.
    pub fn takes_exchange(&self) -> bool {
        self.is_one_pass() && self.phases[0].reads_gradient && self.granularity != Granularity::TouchedRows
    }

    /// Whether it reads what other tensors contribute.
    pub fn shares(&self) -> bool {
        self.accumulators.iter().any(|accumulator| matches!(accumulator.scope, Scope::Group | Scope::Model))
    }

    /// Whether the tensor's slices must be visited one after the other: where rows or columns are added up.
    pub fn is_ordered(&self) -> bool {
        self.accumulators.iter().any(|accumulator| matches!(accumulator.scope, Scope::Row | Scope::Column))
    }

    /// Whether the tensor's slices must live on one thread.
    pub fn is_pinned(&self) -> bool {
        self.is_ordered() || self.granularity == Granularity::Tensor
    }

    /// Whether rounds visit rows that have a gradient, and no others.
    pub(crate) fn is_of_touched_rows(&self) -> bool {
        self.granularity == Granularity::TouchedRows
    }

    /// Slices must start at multiples of this many elements. `None` where the tensor must not be cut.
    pub fn slice_unit(&self) -> Option<u64> {
        let chunk = u64::from(CHUNK_ELEMENTS);
        match self.granularity {
            Granularity::Elements => Some(chunk),
            Granularity::Tensor => None,
            // Whole chunks and whole rows: their least common multiple.
            Granularity::TouchedRows => {
                let columns = self.geometry.columns.max(1);
                let shared = 1 << columns.trailing_zeros().min(CHUNK_ELEMENTS.trailing_zeros());
                columns.checked_mul(chunk / shared)
            }
        }
    }

    /// Whether the server has statistics of its own to gather before this phase.
    pub fn gathers_before(&self, phase: u32) -> bool {
        self.accumulators.iter().any(|accumulator| {
            accumulator.read_from == phase && !matches!(accumulator.contributor, Contributor::Optimizer { .. })
        })
    }

    /// Whether the state of an optimizer with the plan `older` can be kept under this one: the same slots, whatever
    /// they start with. The error says what differs.
    pub fn keeps_state_of(&self, older: &Plan) -> Result<(), String> {
        for slot in &self.slots {
            match older.slots.iter().find(|other| other.name == slot.name) {
                None => return Err(format!("slot {} is new", slot.name)),
                Some(other) if (other.element, &other.extent) != (slot.element, &slot.extent) => {
                    return Err(format!("slot {} has another type or extent", slot.name));
                }
                Some(_) => {}
            }
        }
        if (self.granularity == Granularity::Tensor) != (older.granularity == Granularity::Tensor) {
            return Err("the one visits the tensor whole, the other does not".into());
        }
        match older.slots.iter().find(|slot| !self.slots.iter().any(|other| other.name == slot.name)) {
            Some(slot) => Err(format!("slot {} is gone", slot.name)),
            None => Ok(()),
        }
    }

    /// Elements that a slot has for a run of the tensor's parameters. `None` where that overflows.
    pub(crate) fn slot_elements(&self, slot: &Slot, start: u64, elements: u64) -> Option<u64> {
        Some(match &slot.extent {
            Extent::PerElement => elements,
            Extent::PerRun(run) => elements.div_ceil(u64::from(*run)),
            Extent::PerRow => {
                let rows = self.geometry.rows_of(start..start + elements);
                rows.end - rows.start
            }
            Extent::PerColumn => self.geometry.columns,
            Extent::Scalar => 1,
            Extent::Explicit(shape) => {
                return shape.iter().try_fold(1_u64, |product, extent| product.checked_mul(*extent));
            }
        })
    }

    /// The index of the evaluation phase among all phases.
    pub(crate) fn evaluation_phase(&self) -> Option<u32> {
        self.evaluation.is_some().then_some(self.phases.len() as u32)
    }

    /// Checks what a component returned for a tensor.
    pub(crate) fn checked(raw: types::TensorPlan, tensor: &TensorDescription) -> Result<Self, SandboxError> {
        let refuse = |reason: String| SandboxError::Plan { tensor: tensor.name.clone(), reason };
        let declarations = [raw.slots.len(), raw.accumulators.len(), raw.phases.len()];
        if declarations.iter().any(|count| *count > DECLARATIONS) {
            return Err(refuse(format!("more than {DECLARATIONS} slots, accumulators or phases")));
        }
        let geometry = Geometry::of(&tensor.shape).ok_or_else(|| refuse("its number of elements overflows".into()))?;
        let granularity = Granularity::from(raw.granularity);
        let (phases, evaluation) = phases(raw.phases).map_err(refuse)?;

        let mut slots: Vec<Slot> = Vec::with_capacity(raw.slots.len());
        for raw in raw.slots {
            let slot = slot(raw, granularity).map_err(refuse)?;
            if slots.iter().any(|other| other.name == slot.name) {
                return Err(refuse(format!("slot {} is declared twice", slot.name)));
            }
            slots.push(slot);
        }
        let mut accumulators: Vec<Accumulator> = Vec::with_capacity(raw.accumulators.len());
        for raw in raw.accumulators {
            let accumulator = accumulator(raw, phases.len() as u32, granularity).map_err(refuse)?;
            if accumulators.iter().any(|other| other.name == accumulator.name) {
                return Err(refuse(format!("accumulator {} is declared twice", accumulator.name)));
            }
            accumulators.push(accumulator);
        }
        if granularity == Granularity::TouchedRows {
            if tensor.shape.len() < 2 {
                return Err(refuse("a tensor with fewer than two axes has no rows to be touched".into()));
            }
            if phases.len() != 1 || evaluation.is_some() || !accumulators.is_empty() {
                return Err(refuse("touched rows are visited in one phase, without accumulators".into()));
            }
        }
        let plan = Self { slots, accumulators, phases, evaluation, granularity, work_bytes: raw.work_bytes, geometry };
        match plan.slot_bytes() {
            u64::MAX => Err(refuse("its slots are larger than can be counted".into())),
            _ => Ok(plan),
        }
    }
}

fn phases(raw: Vec<types::Phase>) -> Result<(Vec<Phase>, Option<String>), String> {
    let mut phases = Vec::with_capacity(raw.len());
    let mut evaluation = None;
    for phase in raw {
        let name = shortened(phase.name);
        match (phase.purpose, &evaluation) {
            (_, Some(_)) => return Err("a phase comes after that of purpose evaluation".into()),
            (types::Purpose::Update, None) => phases.push(Phase { name, reads_gradient: phase.reads_gradient }),
            (types::Purpose::Evaluation, None) => evaluation = Some(name),
        }
    }
    if phases.is_empty() { Err("it has no phase of purpose update".into()) } else { Ok((phases, evaluation)) }
}

fn slot(raw: types::Slot, granularity: Granularity) -> Result<Slot, String> {
    let name = shortened(raw.name);
    if !(1..=DECLARATION_NAME_BYTES).contains(&name.len()) {
        return Err(format!("a slot's name has {} bytes, from 1 to {DECLARATION_NAME_BYTES} are allowed", name.len()));
    }
    let element = SlotType::from(raw.element);
    let extent = match raw.extent {
        types::Extent::PerElement => Extent::PerElement,
        types::Extent::PerRun(run) => {
            if run == 0 || !CHUNK_ELEMENTS.is_multiple_of(run) {
                return Err(format!("slot {name}: runs of {run} do not divide chunks of {CHUNK_ELEMENTS}"));
            }
            if granularity == Granularity::TouchedRows {
                return Err(format!("slot {name}: rows cannot be told apart in an extent of runs"));
            }
            Extent::PerRun(run)
        }
        types::Extent::PerRow => Extent::PerRow,
        types::Extent::PerColumn => Extent::PerColumn,
        types::Extent::Scalar => Extent::Scalar,
        types::Extent::Explicit(shape) => {
            if granularity != Granularity::Tensor || shape.len() > DECLARATIONS {
                return Err(format!("slot {name}: explicit shapes are for tensors that are visited whole"));
            }
            Extent::Explicit(shape)
        }
    };
    let initial = match raw.initial {
        types::Initial::Zero => Initial::Zero,
        types::Initial::Constant(value) => {
            element.encode(value).ok_or_else(|| format!("slot {name} of type {element:?} cannot start at {value}"))?;
            Initial::Constant(value)
        }
        types::Initial::Parameter => {
            if (element, &extent) != (SlotType::F32, &Extent::PerElement) {
                return Err(format!("slot {name} cannot start as a copy of the parameters: it is of another kind"));
            }
            Initial::Parameter
        }
    };
    Ok(Slot { name, element, extent, initial })
}

fn accumulator(raw: types::Accumulator, phases: u32, granularity: Granularity) -> Result<Accumulator, String> {
    let name = shortened(raw.name);
    let (combination, scope) = (Combination::from(raw.combination), Scope::from(raw.scope));
    let refuse = |reason: &str| Err(format!("accumulator {name:?} {reason}"));
    let contributor = match raw.contributor {
        types::Contributor::Optimizer => Contributor::Optimizer { phase: raw.contributed_in },
        types::Contributor::Parameters => Contributor::Parameters,
        types::Contributor::Gradients => Contributor::Gradients,
    };
    if !(1..=DECLARATION_NAME_BYTES).contains(&name.len()) {
        return refuse("has no name, or one that is too long");
    }
    if raw.read_from >= phases {
        return refuse("is read in a phase of purpose update or none");
    }
    match contributor {
        Contributor::Optimizer { phase } if phase >= raw.read_from => {
            return refuse("is read before its contributions are complete");
        }
        Contributor::Optimizer { .. } => {}
        Contributor::Parameters | Contributor::Gradients => {
            if matches!(scope, Scope::Row | Scope::Column) || combination == Combination::Maximum {
                return refuse("is one that only the optimizer can contribute to");
            }
        }
    }
    if granularity == Granularity::Tensor && matches!(scope, Scope::Row | Scope::Column) {
        return refuse("adds up rows or columns of a tensor that the optimizer sees whole");
    }
    Ok(Accumulator { name, contributor, combination, scope, read_from: raw.read_from })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> types::TensorPlan {
        types::TensorPlan {
            slots: vec![slot("mean"), slot("variance")],
            accumulators: Vec::new(),
            phases: vec![phase(types::Purpose::Update)],
            granularity: types::Granularity::Elements,
            work_bytes: 0,
        }
    }

    fn phase(purpose: types::Purpose) -> types::Phase {
        types::Phase { name: "phase".into(), purpose, reads_gradient: true }
    }

    fn slot(name: &str) -> types::Slot {
        types::Slot {
            name: name.into(),
            element: types::ElementType::F32,
            extent: types::Extent::PerElement,
            initial: types::Initial::Zero,
        }
    }

    fn norm() -> types::Accumulator {
        types::Accumulator {
            name: "norm".into(),
            contributor: types::Contributor::Optimizer,
            combination: types::Combination::Sum,
            scope: types::Scope::Tensor,
            contributed_in: 0,
            read_from: 1,
        }
    }

    fn matrix() -> TensorDescription {
        TensorDescription { name: "t".into(), shape: vec![30, 20], ..TensorDescription::default() }
    }

    fn checked(raw: types::TensorPlan) -> Result<Plan, SandboxError> {
        Plan::checked(raw, &matrix())
    }

    #[test]
    fn state_is_kept_if_and_only_if_the_slots_are_the_same() {
        let plan = |slots: Vec<types::Slot>| checked(types::TensorPlan { slots, ..raw() }).unwrap();
        let (a, b) = (slot("a"), slot("b"));
        let wide = types::Slot { element: types::ElementType::F64, ..slot("b") };
        let both = plan(vec![a.clone(), b.clone()]);
        assert_eq!(both.keeps_state_of(&plan(vec![b, a.clone()])), Ok(()));
        assert_eq!(both.keeps_state_of(&plan(vec![a.clone()])), Err("slot b is new".into()));
        assert_eq!(plan(vec![a.clone()]).keeps_state_of(&both), Err("slot b is gone".into()));
        assert!(both.keeps_state_of(&plan(vec![a, wide])).unwrap_err().contains("slot b has another type"));
    }

    #[test]
    fn slices_of_touched_rows_start_at_rows_and_at_chunks() {
        let unit = |columns| {
            let tensor = TensorDescription { shape: vec![1 << 20, columns], ..matrix() };
            let rows = types::TensorPlan { granularity: types::Granularity::TouchedRows, ..raw() };
            Plan::checked(rows, &tensor).unwrap().slice_unit()
        };
        assert_eq!([16, 4096, 8192, 300, 1001].map(unit), [4096, 4096, 8192, 307_200, 4_100_096].map(Some));
    }

    #[test]
    fn memory_is_counted_by_extent_and_type() {
        let sized = |element, extent| types::Slot { element, extent, ..slot("s") };
        for (slot, bytes) in [
            (sized(types::ElementType::F32, types::Extent::PerElement), 2400),
            (sized(types::ElementType::U8, types::Extent::PerElement), 600),
            (sized(types::ElementType::F32, types::Extent::PerRun(256)), 12),
            (sized(types::ElementType::F64, types::Extent::PerRow), 240),
            (sized(types::ElementType::Bf16, types::Extent::PerColumn), 40),
            (sized(types::ElementType::F64, types::Extent::Scalar), 8),
        ] {
            assert_eq!(checked(types::TensorPlan { slots: vec![slot], ..raw() }).unwrap().slot_bytes(), bytes);
        }
        let slots = vec![sized(types::ElementType::F32, types::Extent::Explicit(vec![30, 30]))];
        let whole = types::TensorPlan { slots, granularity: types::Granularity::Tensor, ..raw() };
        let whole = checked(whole).unwrap();
        assert_eq!((whole.slot_bytes(), whole.bytes_per_parameter()), (3600, 10.0));
    }

    #[test]
    fn plans_that_contradict_the_contract_are_refused() {
        let update = phase(types::Purpose::Update);
        let two = vec![update.clone(), update.clone()];
        let with = |accumulator| types::TensorPlan { accumulators: vec![accumulator], phases: two.clone(), ..raw() };
        let slots = |slot| types::TensorPlan { slots: vec![slot], ..raw() };
        assert!(checked(with(norm())).is_ok());
        let wrong = [
            types::TensorPlan { phases: Vec::new(), ..raw() },
            types::TensorPlan { phases: vec![phase(types::Purpose::Evaluation)], ..raw() },
            types::TensorPlan { phases: vec![update.clone(), phase(types::Purpose::Evaluation), update], ..raw() },
            types::TensorPlan { slots: vec![slot("a"), slot("a")], ..raw() },
            types::TensorPlan { slots: vec![slot("a"); 65], ..raw() },
            slots(slot("")),
            slots(types::Slot { initial: types::Initial::Constant(f64::NAN), ..slot("a") }),
            slots(types::Slot { extent: types::Extent::PerRun(0), ..slot("a") }),
            slots(types::Slot { extent: types::Extent::PerRun(300), ..slot("a") }),
            slots(types::Slot { extent: types::Extent::Explicit(vec![2]), ..slot("a") }),
            slots(types::Slot { extent: types::Extent::PerRow, initial: types::Initial::Parameter, ..slot("a") }),
            types::TensorPlan {
                granularity: types::Granularity::Tensor,
                slots: vec![types::Slot { extent: types::Extent::Explicit(vec![u64::MAX, 2]), ..slot("a") }],
                ..raw()
            },
            with(types::Accumulator { read_from: 2, ..norm() }),
            with(types::Accumulator { contributed_in: 1, ..norm() }),
            with(types::Accumulator { name: String::new(), ..norm() }),
            with(types::Accumulator { contributor: types::Contributor::Gradients, scope: types::Scope::Row, ..norm() }),
            types::TensorPlan {
                granularity: types::Granularity::Tensor,
                ..with(types::Accumulator { scope: types::Scope::Column, ..norm() })
            },
            types::TensorPlan { granularity: types::Granularity::TouchedRows, ..with(norm()) },
            types::TensorPlan { accumulators: vec![norm(), norm()], phases: two.clone(), ..raw() },
        ];
        for plan in wrong {
            let shown = format!("{plan:?}");
            assert!(matches!(checked(plan), Err(SandboxError::Plan { .. })), "{shown}");
        }
        let vector = TensorDescription { shape: vec![600], ..matrix() };
        let rows = types::TensorPlan { granularity: types::Granularity::TouchedRows, ..raw() };
        assert!(Plan::checked(rows.clone(), &vector).is_err());
        assert!(Plan::checked(rows, &matrix()).is_ok());
    }
}
