//! Admission: from bytes to a component that may be instantiated.

pub(crate) mod allow_list;
pub(crate) mod cache;
mod checks;
pub(crate) mod compiler;
mod native;
mod trial;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::contract::description::Description;
use crate::error::{Chain, SandboxError};
use crate::instance::Instance;
use crate::instance::admission_record::{Admission, Origin};
use crate::instance::component::{AdmittedComponent, Parts};
use crate::instance::engine::{Metering, engine};
use crate::instance::fuel::FuelModel;
use crate::instance::limiter::{Charge, MemoryBudget};
use crate::instance::linked::Linked;
use crate::limits::SandboxConfig;
use allow_list::Surveyed;
use cache::{CompileCache, Subject};
use compiler::Compiler;
use trial::rehearse;

/// The sandbox: one engine, its limits, and the memory that all its instances share. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
    config: Arc<SandboxConfig>,
    metering: Metering,
    memory: Arc<MemoryBudget>,
    cache: Option<Arc<CompileCache>>,
    compiler: Compiler,
    /// Of [`cache::conditions`].
    conditions: [u8; 32],
    /// Components that were admitted and are still in use, by their digests.
    in_use: Arc<Mutex<InUse>>,
}

type InUse = Vec<([u8; 32], Weak<Parts>)>;

/// Native code, and what the cache knows of its trial.
struct Code {
    component: Component,
    fuel: Option<FuelModel>,
    origin: Origin,
    took: Duration,
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
        let conditions = cache::conditions(&engine, &config);
        Ok(Self {
            engine,
            config: Arc::new(config),
            metering,
            memory,
            cache: None,
            compiler: Compiler::default(),
            conditions,
            in_use: Arc::default(),
        })
    }

    /// Keeps compiled components, and finds those kept before.
    #[must_use]
    pub fn with_cache(self, cache: CompileCache) -> Self {
        Self { cache: Some(Arc::new(cache)), ..self }
    }

    /// Has components compiled by somebody else than this process, which is the default.
    #[must_use]
    pub fn with_compiler(self, compiler: Compiler) -> Self {
        Self { compiler, ..self }
    }

    /// Admits a component: looks it over and at what it imports, compiles it, checks what it exports and declares, asks for
    /// its description, and runs it for a few rounds on made-up tensors. Takes some hundred milliseconds, or a few where the
    /// cache has the component; run it off any hot path.
    ///
    /// The caller answers for where the bytes come from: nothing is verified here but behaviour.
    ///
    /// # Errors
    /// Each reason has its own [`SandboxError`]; nothing is left behind.
    pub fn admit(&self, component: &[u8]) -> Result<AdmittedComponent, SandboxError> {
        let subject = Subject { component: Sha256::digest(component).into(), conditions: self.conditions };
        if let Some(admitted) = self.in_use(&subject.component) {
            return Ok(admitted);
        }
        let Surveyed { structure, imports } = allow_list::check(component, &self.config.component)?;
        let imports = checks::imports(imports, self.config.wasi)?;
        let code = self.code(&subject, component)?;
        let compiled = &code.component;
        checks::resources(compiled, &self.config.limits)?;
        let exports = checks::exports(compiled)?;
        let with_wasi = imports.iter().any(|import| import.starts_with("wasi:"));
        let linked = Linked::new(compiled, with_wasi, self.metering)
            .map_err(|error| SandboxError::Invalid(Chain(&error).to_string()))?;

        let limits = self.config.limits.clone();
        let charge = Charge::new(Arc::clone(&self.memory));
        let described = Instance::new(&linked, "component under trial", charge, &limits)?.describe()?;
        let mut admitted = Parts {
            linked,
            description: Description::checked(described)?,
            fuel: FuelModel::untried(&limits),
            limits,
            memory: Arc::clone(&self.memory),
            imports,
            exports,
            structure,
            admission: Admission { origin: code.origin, code: code.took, trial: Duration::ZERO },
        };
        admitted.fuel = match code.fuel {
            Some(known) => known,
            None => {
                let since = Instant::now();
                let fuel = rehearse(&AdmittedComponent::new(Arc::new(admitted.clone())))?;
                admitted.admission.trial = since.elapsed();
                if let Some(cache) = &self.cache {
                    cache.store(&subject, fuel, compiled);
                }
                fuel
            }
        };
        Ok(self.admitted(&subject.component, admitted))
    }

    /// The component's native code: from the cache, or compiled.
    fn code(&self, subject: &Subject, component: &[u8]) -> Result<Code, SandboxError> {
        let since = Instant::now();
        let miss = match self.cache.as_ref().map(|cache| cache.load(&self.engine, subject)) {
            Some(Ok((component, fuel))) => {
                return Ok(Code { component, fuel: Some(fuel), origin: Origin::Cached, took: since.elapsed() });
            }
            Some(Err(miss)) => Some(miss),
            None => None,
        };
        if let (Some(reason), Some(cache)) = (miss.as_ref().filter(|miss| miss.is_suspicious()), &self.cache) {
            tracing::warn!(cache = %cache.path().display(), %reason, "a cached component is not used");
        }
        let component = self.compiled(component)?;
        Ok(Code { component, fuel: None, origin: Origin::Compiled(miss), took: since.elapsed() })
    }

    fn compiled(&self, component: &[u8]) -> Result<Component, SandboxError> {
        match &self.compiler {
            Compiler::InProcess => Component::from_binary(&self.engine, component)
                .map_err(|error| SandboxError::Invalid(Chain(&error).to_string())),
            Compiler::Broker(broker) => {
                let code = broker.compile(self.metering, self.config.limits.stack_bytes, component)?;
                native::compiled(&self.engine, &code).map_err(|error| SandboxError::Compiler(Chain(&error).to_string()))
            }
        }
    }

    /// A component that is in use, as it is when admitted again.
    fn in_use(&self, digest: &[u8; 32]) -> Option<AdmittedComponent> {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let parts =
            in_use.iter().filter(|(other, _)| other == digest).find_map(|(_, component)| component.upgrade())?;
        drop(in_use);
        let admission = Admission { origin: Origin::InUse, code: Duration::ZERO, trial: Duration::ZERO };
        Some(self.admitted(digest, Parts { admission, ..Parts::clone(&parts) }))
    }

    /// Remembers a component for as long as somebody has it, and hands it out.
    fn admitted(&self, digest: &[u8; 32], component: Parts) -> AdmittedComponent {
        let Admission { origin, code, trial } = &component.admission;
        tracing::info!(component = component.description.name, %origin, ?code, ?trial, "admitted");
        let component = Arc::new(component);
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|(_, component)| component.strong_count() > 0);
        in_use.push((*digest, Arc::downgrade(&component)));
        AdmittedComponent::new(component)
    }
}
