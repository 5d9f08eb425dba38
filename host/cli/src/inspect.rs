//! `stepbox inspect`: what a component is, before anybody trusts it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use stepbox_sandbox::{Description, Domain, Granularity, Hyperparameter, Plan, SandboxError, TensorDescription};
use stepbox_server::{Footprint, MAX_WORKERS};
use stepbox_trust::{Claims, Digest, KeyId, MAX_COMPONENT_BYTES, TrustError, TrustStore};
use wasmparser::{Parser, Payload};

use crate::admission;
use crate::files;
use crate::output::{Failure, Report, printable};
use crate::plan;

/// Show what a component is, asks for, and who signed it
#[derive(Args)]
#[command(after_help = "\
What the signature says is a claim until it is verified: give a trust file for that. The component is run in a sandbox
to describe itself; it gets nothing there.

Examples:
  stepbox inspect adamw.wasm
  stepbox inspect shampoo.wasm --workers 8 --shape 4096,1024
  stepbox inspect adamw.signed.wasm --trust trust.toml --json")]
pub(crate) struct Inspect {
    /// The component, signed or not
    file: PathBuf,

    /// Verify the signature against this trust file
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,

    /// Tell the memory of a server with this many workers
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=MAX_WORKERS as i64))]
    workers: u32,

    /// Plan for a tensor of these extents, and tell its memory
    #[arg(long, value_name = "EXTENTS", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    shape: Vec<u64>,

    /// Tell the memory of this many parameters, in tensors of the shape
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    parameters: Option<u64>,
}

impl Inspect {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let store = self.trust.as_ref().map(TrustStore::load).transpose()?;
        let bytes = files::read(&self.file, MAX_COMPONENT_BYTES)?;
        let signature = Signature::of(&bytes, store.as_ref());
        let world = World::of(&bytes).map_err(|error| error.about(self.file.display()))?;
        let optimizer = Optimizer::of(&bytes, self);
        let claims = Claims::read(&bytes).ok();
        let warning = match (&optimizer, &claims) {
            (Optimizer::Admitted { description, .. }, Some(claims)) => {
                admission::wrong_name(&description.name, &claims.manifest)
            }
            _ => None,
        };
        Ok(Inspected {
            file: self.file.clone(),
            bytes: bytes.len(),
            digest: claims.map(|claims| claims.digest),
            file_digest: Digest::of(&bytes),
            signature,
            warning,
            imports: world.imports,
            exports: world.exports,
            optimizer,
        })
    }
}

#[derive(Serialize)]
struct Inspected {
    file: PathBuf,
    bytes: usize,
    digest: Option<Digest>,
    file_digest: Digest,
    signature: Signature,
    /// Why a server refuses it although its signature holds and the sandbox admits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    imports: Vec<String>,
    exports: Vec<String>,
    optimizer: Optimizer,
}

/// Who signed it, and how far that is known.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum Signature {
    Unsigned,
    Malformed { reason: String },
    Unverified { name: String, version: String, publisher: KeyId, keys: Vec<KeyId> },
    Refused { name: String, version: String, publisher: KeyId, reason: String },
    Verified { name: String, version: String, publisher: KeyId, publisher_name: String },
}

impl Signature {
    fn of(bytes: &[u8], store: Option<&TrustStore>) -> Self {
        let claims = match Claims::read(bytes) {
            Ok(claims) => claims,
            Err(TrustError::Unsigned) => return Self::Unsigned,
            Err(error) => return Self::Malformed { reason: error.to_string() },
        };
        let (name, version, publisher) =
            (claims.manifest.name, claims.manifest.version.to_string(), claims.manifest.publisher);
        match store.map(|store| store.verify(bytes)) {
            None => Self::Unverified { name, version, publisher, keys: claims.keys },
            Some(Err(error)) => Self::Refused { name, version, publisher, reason: error.to_string() },
            Some(Ok(verified)) => {
                Self::Verified { name, version, publisher, publisher_name: verified.publisher_name().to_owned() }
            }
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Unsigned => "none".to_owned(),
            Self::Malformed { reason } => format!("malformed: {reason}"),
            Self::Unverified { name, version, publisher, .. } => {
                format!("claims to be {name} {version}, signed with key {publisher} (NOT VERIFIED: give --trust)")
            }
            Self::Refused { name, version, publisher, reason } => {
                format!("claims to be {name} {version}, signed with key {publisher} (NOT TRUSTED: {reason})")
            }
            Self::Verified { name, version, publisher, publisher_name } => {
                format!("verified: {name} {version}, signed by {publisher_name} with key {publisher}")
            }
        }
    }
}

/// What a component wants from outside and gives to it, by name.
struct World {
    imports: Vec<String>,
    exports: Vec<String>,
}

impl World {
    fn of(bytes: &[u8]) -> Result<Self, Failure> {
        let wrong =
            |error: wasmparser::BinaryReaderError| Failure::here("component", format!("not a component: {error}"));
        if !Parser::is_component(bytes) {
            return Err(Failure::here("not-a-component", "its header is not a component's"));
        }
        let mut world = Self { imports: Vec::new(), exports: Vec::new() };
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(wrong)? {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 1 => {
                    for import in imports {
                        world.imports.push(import.map_err(wrong)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 1 => {
                    for export in exports {
                        world.exports.push(export.map_err(wrong)?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(world)
    }
}

/// What the component says of itself in the sandbox a server would run it in.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum Optimizer {
    Admitted {
        #[serde(flatten)]
        description: Box<Description>,
        /// What is planned for: optimizers may plan otherwise for tensors of other shapes.
        shape: Vec<u64>,
        plan: Box<Plan>,
        bytes_per_parameter: f64,
        memory: Memory,
        /// What a step cost in the trial run.
        fuel_per_element: f64,
        /// It imports WASI, which a server allows only where its configuration says so.
        needs_wasi: bool,
    },
    NotAdmitted {
        reason: String,
    },
}

/// Extents of the tensor that is planned for unless another is given.
const SHAPE: [u64; 2] = [64, 64];

/// Bytes of a gradient's element, an f32.
const GRADIENT_BYTES: u64 = 4;

/// What a server needs for parameters.
#[derive(Serialize)]
struct Memory {
    workers: u32,
    /// Bytes for each parameter.
    per_parameter: Footprint,
    before_rounds_bytes_per_parameter: f64,
    in_a_round_bytes_per_parameter: f64,
    /// How many parameters were asked for, if any.
    parameters: Option<u64>,
    /// All of these, in MiB.
    before_rounds_mebibytes: Option<f64>,
    in_a_round_mebibytes: Option<f64>,
}

impl Memory {
    fn of(plan: &Plan, options: &Inspect) -> Self {
        let per_parameter = Footprint::of(plan, options.workers, GRADIENT_BYTES);
        let shape = (!options.shape.is_empty()).then(|| plan.geometry.elements());
        let parameters = options.parameters.or(shape);
        let mebibytes = |bytes: f64| parameters.map(|count| bytes * count as f64 / f64::from(1 << 20));
        Self {
            workers: options.workers,
            before_rounds_bytes_per_parameter: per_parameter.before_rounds(),
            in_a_round_bytes_per_parameter: per_parameter.in_a_round(),
            before_rounds_mebibytes: mebibytes(per_parameter.before_rounds()),
            in_a_round_mebibytes: mebibytes(per_parameter.in_a_round()),
            per_parameter,
            parameters,
        }
    }

    fn text(&self, granularity: Granularity) -> String {
        let Self { workers, per_parameter, .. } = self;
        let of_touched = if granularity == Granularity::TouchedRows { " of a touched row" } else { "" };
        let Footprint { state, published, gradients, undo } = per_parameter;
        let workers = if *workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
        let mut text = format!(
            "memory of a server with {workers}: {:.1} bytes for each parameter{of_touched} ({state:.1} state, {published:.1} \
             published, {gradients:.1} gradients, {undo:.1} undo)",
            self.in_a_round_bytes_per_parameter
        );
        if let (Some(parameters), Some(rest), Some(round)) =
            (self.parameters, self.before_rounds_mebibytes, self.in_a_round_mebibytes)
        {
            text += &format!("; {round:.1} MiB for {parameters}, {rest:.1} MiB of it before the first round");
        }
        text
    }
}

impl Optimizer {
    fn of(bytes: &[u8], options: &Inspect) -> Self {
        let admit = || -> Result<Self, SandboxError> {
            let component = admission::admit(bytes)?;
            let settings = component
                .configure(None, &[])
                .map_err(|error| SandboxError::Description(format!("its own defaults do not fit: {error}")))?;
            let shape = if options.shape.is_empty() { SHAPE.to_vec() } else { options.shape.clone() };
            let tensor = TensorDescription { name: "example".into(), shape: shape.clone(), ..Default::default() };
            let plan = component.plan(&settings, &tensor)?;
            Ok(Self::Admitted {
                description: Box::new(component.description().clone()),
                shape,
                memory: Memory::of(&plan, options),
                bytes_per_parameter: plan.bytes_per_parameter(),
                fuel_per_element: match plan.granularity {
                    Granularity::Tensor => {
                        component.fuel().per_element_of_whole(plan.geometry.rows, plan.geometry.columns)
                    }
                    Granularity::Elements | Granularity::TouchedRows => component.fuel().per_element(),
                },
                plan: Box::new(plan),
                needs_wasi: component.imports().iter().any(|import| import.starts_with("wasi:")),
            })
        };
        admit().unwrap_or_else(|error| Self::NotAdmitted { reason: error.to_string() })
    }

    fn text(&self) -> String {
        let (description, shape, plan, bytes_per_parameter, memory, fuel, needs_wasi) = match self {
            Self::Admitted { description, shape, plan, bytes_per_parameter, memory, fuel_per_element, needs_wasi } => {
                (description, shape, plan, bytes_per_parameter, memory, fuel_per_element, *needs_wasi)
            }
            Self::NotAdmitted { reason } => return format!("a server would not admit it: {}", printable(reason)),
        };
        let rates = &description.learning_rate;
        let mut lines = vec![format!("{}: {}", description.name, one_line(&description.documentation))];
        if needs_wasi {
            lines.push("needs sandbox.wasi = \"empty\" in the server's configuration".to_owned());
        }
        lines.push(format!("visits {}", plan::visits(plan)));
        let slots = plan::slots(plan);
        let slots = if slots.is_empty() { "none".to_owned() } else { slots.join(", ") };
        lines.push(format!("state: {slots}; {bytes_per_parameter:.1} bytes for each parameter, itself included"));
        lines.push(memory.text(plan.granularity));
        let shape = match &shape[..] {
            [rows, columns] => format!("a matrix of {rows} by {columns}"),
            [elements] => format!("a vector of {elements}"),
            extents => format!("a tensor of {extents:?}"),
        };
        lines.push(format!("a step costs {fuel:.1} units of fuel for each parameter (of {shape})"));
        if description.needs_loss {
            lines.push("needs the workers' loss with each gradient".to_owned());
        }
        lines.push(format!("learning_rate  {rates}, {} unless set", rates.default));
        lines.extend(description.hyperparameters.iter().map(hyperparameter));
        lines.join("\n           ")
    }
}

fn hyperparameter(entry: &Hyperparameter) -> String {
    let domain = match &entry.domain {
        Domain::Number(range) => format!("{range}, {} unless set", range.default),
        Domain::Integer { minimum, maximum, default } => format!("[{minimum}, {maximum}], {default} unless set"),
        Domain::Boolean { default } => format!("true or false, {default} unless set"),
        Domain::Choice { names, default } => {
            let default = names.get(*default as usize).map_or("?", String::as_str);
            format!("{}, {} unless set", printable(&names.join(" or ")), printable(default))
        }
    };
    format!("{}  {domain}: {}", entry.name, one_line(&entry.documentation))
}

/// Documentation is in paragraphs; here it stands in a list.
fn one_line(text: &str) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

impl Report for Inspected {
    fn text(&self) -> String {
        let list = |names: &[String]| match names {
            [] => "none".to_owned(),
            names => names.iter().map(|name| printable(name)).collect::<Vec<_>>().join("\n           "),
        };
        format!(
            "file       {}, {} bytes\n\
             digest     {}\n\
             sha256     {}\n\
             signature  {}\n\
             imports    {}\n\
             exports    {}\n\
             optimizer  {}",
            self.file.display(),
            self.bytes,
            self.digest.map_or_else(|| "none, it is not signed".to_owned(), |digest| digest.to_string()),
            self.file_digest,
            self.signature.text()
                + &self
                    .warning
                    .as_ref()
                    .map(|warning| format!("\n           {}", printable(warning)))
                    .unwrap_or_default(),
            list(&self.imports),
            list(&self.exports),
            self.optimizer.text()
        )
    }
}
