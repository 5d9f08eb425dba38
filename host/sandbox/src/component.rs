//! Admission: from bytes to a component that may be instantiated.

use std::sync::Arc;

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::contract::{INTERFACE, LINEAR_ALGEBRA, types};
use crate::declarations::{Extent, Granularity, Slot};
use crate::description::Description;
use crate::engine::{Metering, engine};
use crate::error::{Chain, SandboxError};
use crate::fuel::FuelModel;
use crate::geometry::Geometry;
use crate::instance::{Allowance, CallBudget, Instance, Linked};
use crate::layout::Layout;
use crate::limiter::{Charge, MemoryBudget};
use crate::limits::{CHUNK_ELEMENTS, Limits, SandboxConfig, WasiPolicy};
use crate::plan::{Plan, TensorDescription};
use crate::pool::InstancePool;
use crate::settings::{Settings, SettingsError};
use crate::trial::rehearse;
use crate::wasi;

/// The sandbox: one engine, its limits, and the memory that all its instances share. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
    config: Arc<SandboxConfig>,
    metering: Metering,
    memory: Arc<MemoryBudget>,
}

impl Sandbox {
    /// Starts an engine with these limits.
    ///
    /// # Errors
    /// A limit is out of range, or the engine does not work on this machine.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        Self::metered(config, Metering::default())
    }

    /// As [`new`](Self::new), with less metering than a server has: for measurements of what it costs, on components that
    /// are trusted to return.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn metered(config: SandboxConfig, metering: Metering) -> Result<Self, SandboxError> {
        if let Some((name, value, greatest)) = config.limits.out_of_range() {
            return Err(SandboxError::LimitOutOfRange { name, value, greatest });
        }
        let engine = engine(&config.limits, metering)?;
        let memory = MemoryBudget::new(config.limits.total_memory_bytes);
        Ok(Self { engine, config: Arc::new(config), metering, memory })
    }

    /// Admits a component: compiles it, checks what it imports, exports and declares, asks for its description, and
    /// runs it for a few rounds on made-up tensors. Takes some hundred milliseconds; run it off any hot path.
    ///
    /// The caller answers for where the bytes come from: nothing is verified here but behaviour.
    ///
    /// # Errors
    /// Each reason has its own [`SandboxError`]; nothing is left behind.
    pub fn admit(&self, component: &[u8]) -> Result<AdmittedComponent, SandboxError> {
        let compiled = Component::from_binary(&self.engine, component)
            .map_err(|error| SandboxError::Invalid(Chain(&error).to_string()))?;
        let imports = self.check_imports(&compiled)?;
        check_resources(&compiled, &self.config.limits)?;
        let exports = check_exports(&compiled)?;
        let with_wasi = imports.iter().any(|import| import.starts_with("wasi:"));
        let linked = Linked::new(&compiled, with_wasi, self.metering)
            .map_err(|error| SandboxError::Invalid(Chain(&error).to_string()))?;

        let limits = self.config.limits.clone();
        let budget = CallBudget { fuel: limits.call_fuel, deadline_milliseconds: limits.call_deadline_milliseconds };
        let mut admitted = Inner {
            linked,
            name: "component under trial".into(),
            description: None,
            fuel: FuelModel::untried(&limits),
            limits,
            budget,
            memory: Arc::clone(&self.memory),
            imports,
            exports,
        };
        let description =
            Description::checked(admitted.instantiate(Charge::new(Arc::clone(&self.memory)))?.describe()?)?;
        admitted.name = description.name.clone();
        admitted.description = Some(description);
        let fuel = rehearse(&AdmittedComponent(Arc::new(admitted.clone())))?;
        admitted.fuel = fuel;
        Ok(AdmittedComponent(Arc::new(admitted)))
    }

    /// The imports, if all are on the allow-list.
    fn check_imports(&self, component: &Component) -> Result<Vec<String>, SandboxError> {
        let types = component.component_type();
        let imports: Vec<String> = types.imports(&self.engine).map(|(name, _)| name.to_owned()).collect();
        for import in &imports {
            // The contract's own types are imported by name where a component uses them; they carry no code.
            let wasi = wasi::PACKAGES.iter().any(|package| import.starts_with(package));
            let hint = match (wasi, self.config.wasi) {
                (true, WasiPolicy::Empty) => continue,
                (true, WasiPolicy::Refuse) => {
                    "; to allow components built for wasm32-wasip2, set sandbox.wasi = \"empty\""
                }
                (false, _) if import.starts_with("stepbox:optimizer/types@") || import == LINEAR_ALGEBRA => continue,
                (false, _) => "",
            };
            return Err(SandboxError::ForbiddenImport { import: import.clone(), hint });
        }
        let offers_something = |import: &String| !import.starts_with("stepbox:optimizer/types@");
        Ok(imports.into_iter().filter(offers_something).collect())
    }
}

fn check_resources(component: &Component, limits: &Limits) -> Result<(), SandboxError> {
    let Some(resources) = component.resources_required() else {
        return Err(SandboxError::Invalid("it contains components of its own imports, whose size is unknown".into()));
    };
    let oversized = |what, declared: u64, limit: u64| {
        if declared > limit { Err(SandboxError::Oversized { what, declared, limit }) } else { Ok(()) }
    };
    oversized("a number of memories of", resources.num_memories.into(), 1)?;
    oversized("an initial memory of", resources.max_initial_memory_size.unwrap_or(0), limits.guest_overhead_bytes)?;
    oversized("an initial table of", resources.max_initial_table_size.unwrap_or(0), limits.table_elements)
}

fn check_exports(component: &Component) -> Result<Vec<String>, SandboxError> {
    let types = component.component_type();
    let engine = component.engine();
    let exports: Vec<String> = types.exports(engine).map(|(name, _)| name.to_owned()).collect();
    let contract = types.get_export(engine, INTERFACE);
    if !matches!(contract.map(|export| export.ty), Some(ComponentItem::ComponentInstance(_))) {
        return Err(SandboxError::NoContract { expected: INTERFACE });
    }
    Ok(exports)
}

/// A component that passed admission: the only thing that can be instantiated. Cheap to clone.
#[derive(Clone)]
pub struct AdmittedComponent(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    linked: Linked,
    name: String,
    /// Set before anyone outside this module sees the component.
    description: Option<Description>,
    fuel: FuelModel,
    limits: Limits,
    budget: CallBudget,
    memory: Arc<MemoryBudget>,
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Inner {
    fn instantiate(&self, charge: Arc<Charge>) -> Result<Instance, SandboxError> {
        let allowance =
            Allowance { memory_bytes: self.limits.guest_overhead_bytes, table_elements: self.limits.table_elements };
        Instance::new(&self.linked, &self.name, charge, allowance, self.budget)
    }
}

impl AdmittedComponent {
    /// What it says of itself.
    pub fn description(&self) -> &Description {
        match &self.0.description {
            Some(description) => description,
            None => unreachable!("admission sets the description before it hands the component out"),
        }
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
        let raw: types::TensorPlan = self.instantiate()?.plan(settings.values(), &tensor.raw())?;
        let plan = Plan::checked(raw, tensor)?;
        match (plan.granularity, self.description().largest_whole_tensor) {
            (Granularity::Tensor, Some(largest)) if plan.geometry.elements() > largest => {
                let reason = format!("it has {} elements, the optimizer takes {largest}", plan.geometry.elements());
                Err(SandboxError::Plan { tensor: tensor.name.clone(), reason })
            }
            _ => Ok(plan),
        }
    }

    /// An empty pool of instances.
    pub fn pool(&self) -> InstancePool {
        InstancePool::new(self.clone())
    }

    pub(crate) fn instantiate(&self) -> Result<Instance, SandboxError> {
        self.0.instantiate(Charge::new(Arc::clone(&self.0.memory)))
    }

    /// An instance to take the place of another, whose charge it goes on with.
    pub(crate) fn instantiate_after(&self, former: &Instance) -> Result<Instance, SandboxError> {
        self.0.instantiate(former.charge())
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
        CallBudget {
            fuel: match whole {
                true => self.0.fuel.whole_budget(rows, columns),
                false => self.0.fuel.budget(elements),
            },
            deadline_milliseconds: match whole {
                true => limits.whole_tensor_deadline_milliseconds,
                false => limits.call_deadline_milliseconds,
            },
        }
    }

    /// Fuel of `begin`, which may visit what a slice has for its rows and columns.
    pub(crate) fn begin_fuel(&self, layout: &Layout, plan: &Plan) -> u64 {
        let shared = |slot: &&Slot| !matches!(slot.extent, Extent::PerElement | Extent::PerRun(_));
        let slots = plan.slots.iter().zip(&layout.slots).filter(|(slot, _)| shared(slot)).map(|(_, view)| view);
        let elements: u64 = slots.chain(&layout.combined).map(|view| view.elements() as u64).sum();
        self.0.limits.call_fuel.saturating_add(elements.saturating_mul(self.0.limits.fuel_per_element))
    }
}
