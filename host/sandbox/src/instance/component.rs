//! Components that passed admission.

use std::sync::{Arc, MutexGuard};

use crate::contract::bindings::types;
use crate::contract::declarations::Granularity;
use crate::contract::description::Description;
use crate::contract::geometry::Geometry;
use crate::contract::plan::Plan;
use crate::contract::settings::{Settings, SettingsError};
use crate::contract::tensor::TensorDescription;
use crate::error::{CallError, SandboxError};
use crate::instance::Instance;
use crate::instance::admission_record::Admission;
use crate::instance::fuel::FuelModel;
use crate::instance::limiter::{Charge, MemoryBudget};
use crate::instance::linked::Linked;
use crate::instance::preparation::{CallBudget, Preparation};
use crate::limits::{CHUNK_ELEMENTS, Limits, Structure};

/// A component that passed admission: the only thing that can be instantiated. Cheap to clone.
#[derive(Clone)]
pub struct AdmittedComponent(Arc<Parts>);

/// What admission found out about a component.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) linked: Linked,
    pub(crate) description: Description,
    pub(crate) fuel: FuelModel,
    pub(crate) limits: Limits,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
    pub(crate) structure: Structure,
    pub(crate) admission: Admission,
}

impl AdmittedComponent {
    /// Only [`Sandbox::admit`](crate::Sandbox::admit) may call this.
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        Self(parts)
    }

    /// What it says of itself.
    pub fn description(&self) -> &Description {
        &self.0.description
    }

    /// What it imports besides the contract's types: the server's matrix product, and WASI interfaces if the operator
    /// allows them.
    pub fn imports(&self) -> &[String] {
        &self.0.imports
    }

    /// What it exports.
    pub fn exports(&self) -> &[String] {
        &self.0.exports
    }

    /// What it consists of.
    pub fn structure(&self) -> &Structure {
        &self.0.structure
    }

    /// How it came to be admitted.
    pub fn admission(&self) -> &Admission {
        &self.0.admission
    }

    /// What a step costs, as measured at admission.
    pub fn fuel(&self) -> FuelModel {
        self.0.fuel
    }

    /// Checks learning rate and hyperparameters (name and text as the operator wrote it) against the schema.
    ///
    /// # Errors
    /// The first value that does not fit, and what would.
    pub fn configure(
        &self,
        learning_rate: Option<f64>,
        values: &[(String, String)],
    ) -> Result<Settings, SettingsError> {
        Settings::checked(self.description(), learning_rate, values)
    }

    /// Asks the optimizer what it needs for a tensor.
    ///
    /// # Errors
    /// It refuses the tensor, misbehaves, or needs what this server does not offer.
    pub fn plan(&self, settings: &Settings, tensor: &TensorDescription) -> Result<Plan, SandboxError> {
        self.plan_within(settings, tensor, &self.preparation())
    }

    /// As [`plan`](Self::plan), as part of a preparation whose budget other calls share.
    ///
    /// # Errors
    /// As for [`plan`](Self::plan), and where the budget is used up.
    pub fn plan_within(
        &self,
        settings: &Settings,
        tensor: &TensorDescription,
        preparation: &Preparation,
    ) -> Result<Plan, SandboxError> {
        let raw: types::TensorPlan = self.instantiate()?.plan(settings.values(), &tensor.raw(), preparation)?;
        let plan = Plan::checked(raw, tensor)?;
        match (plan.granularity, self.description().largest_whole_tensor) {
            (Granularity::Tensor, Some(largest)) if plan.geometry.elements() > largest => {
                let reason = format!("it has {} elements, the optimizer takes {largest}", plan.geometry.elements());
                Err(SandboxError::Plan { tensor: tensor.name.clone(), reason })
            }
            _ => Ok(plan),
        }
    }

    /// A budget for planning and binding, whose time runs from now on.
    pub fn preparation(&self) -> Preparation {
        Preparation::new(self.limits())
    }

    pub(crate) fn instantiate(&self) -> Result<Instance, SandboxError> {
        self.instantiate_with(Charge::new(Arc::clone(&self.0.memory)))
    }

    /// An instance to take the place of another, whose charge it goes on with: see [`Self::overdraft`].
    pub(crate) fn instantiate_after(&self, former: &Instance) -> Result<Instance, SandboxError> {
        self.instantiate_with(former.charge())
    }

    fn instantiate_with(&self, charge: Arc<Charge>) -> Result<Instance, SandboxError> {
        Instance::new(&self.0.linked, &self.0.description.name, charge, &self.0.limits)
    }

    /// To be held while two instances have one charge.
    pub(crate) fn overdraft(&self) -> MutexGuard<'_, ()> {
        self.0.memory.overdraft()
    }

    /// Takes memory that the server itself needs for a slice from the budget of all instances.
    pub(crate) fn charge(&self, bytes: u64) -> Result<Arc<Charge>, SandboxError> {
        Charge::of(&self.0.memory, bytes).map_err(|failure| CallError { function: "bind", failure }.into())
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Elements in a block.
    pub(crate) fn block_elements(&self) -> u32 {
        self.0.limits.block_elements.next_multiple_of(CHUNK_ELEMENTS)
    }

    /// Budget of a step on a block of this many elements.
    pub(crate) fn step_budget(&self, plan: &Plan, elements: u64) -> CallBudget {
        let limits = &self.0.limits;
        let whole = plan.granularity == Granularity::Tensor;
        let Geometry { rows, columns } = plan.geometry;
        let budget = |model: &FuelModel| match whole {
            true => model.whole_budget(rows, columns),
            false => model.budget(elements),
        };
        CallBudget {
            // What the trial showed, and never more than the operator allows: a trial can be lied to.
            fuel: budget(&self.0.fuel).min(budget(&FuelModel::untried(limits))),
            deadline_milliseconds: match whole {
                true => limits.whole_tensor_deadline_milliseconds,
                false => limits.call_deadline_milliseconds,
            },
        }
    }

    /// Fuel of `begin`, which may visit what a slice has for its rows and columns.
    pub(crate) fn begin_fuel(&self, elements: u64) -> u64 {
        self.0.limits.call_fuel.saturating_add(elements.saturating_mul(self.0.limits.fuel_per_element))
    }
}
