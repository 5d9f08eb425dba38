//! What may reach the compiler: the first look at a component's bytes.
//!
//! One pass over all of it, nested modules and components included, before anything else is done with it. It must be
//! valid WebAssembly in exactly the features that the engine has ([`FEATURES`]), have no code that runs by itself, and
//! stay below the sizes of [`ComponentLimits`]. Sizes are looked at before the part they are of is validated. The parser
//! is the one that wasmtime uses itself, in the same version.
//!
//! This bounds what a component consists of, not what compiling it costs, which is no simple function of that: see
//! [`compiler`](crate::compiler) for the rest.

mod limits;
mod survey;

use thiserror::Error;
use wasmparser::WasmFeatures;

pub use limits::*;
use survey::Survey;

/// What components may use: what compilers of optimizers need, nothing else. Relaxed SIMD gives different bits on different
/// processors; the rest is attack surface. The engine is configured with this very value.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::COMPONENT_MODEL
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::MUTABLE_GLOBAL)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::SIMD);

/// Why a component is not handed to the compiler. Offsets are in bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Forbidden {
    /// Something else altogether.
    #[error("its header is not a component's; a core module must be made into one first (`wasm-tools component new`)")]
    NotAComponent,
    /// It uses a WebAssembly feature that optimizers may not use.
    #[error("at byte {offset}: it uses {feature}, which optimizers may not ({reason})")]
    Feature {
        /// The feature's name in WebAssembly's specifications.
        feature: String,
        /// What it is needed for there.
        reason: String,
        /// Where.
        offset: usize,
    },
    /// It is not valid.
    #[error("at byte {offset}: {reason}")]
    Invalid {
        /// What the validator says.
        reason: String,
        /// Where.
        offset: usize,
    },
    /// Code that runs by itself when it is instantiated.
    #[error(
        "at byte {offset}: it has a start function; whatever an optimizer must set up belongs into `plan` or `bind`"
    )]
    StartFunction {
        /// Where.
        offset: usize,
    },
    /// It has more of something than it may have.
    #[error("at byte {offset}: it has {found} {what}; sandbox.component.{limit} = {allowed}")]
    TooMany {
        /// What it has too many of, such as `functions`.
        what: &'static str,
        /// The limit's name.
        limit: &'static str,
        /// How many it has, at least.
        found: u64,
        /// How many it may have.
        allowed: u64,
        /// Where that was reached.
        offset: usize,
    },
}

impl From<wasmparser::Error> for Forbidden {
    fn from(error: wasmparser::Error) -> Self {
        let (reason, offset) = (error.message().to_owned(), error.offset());
        match error.missing_wasm_feature() {
            Some(missing) => {
                let names: Vec<_> =
                    missing.iter_names().map(|(name, _)| name.to_lowercase().replace('_', "-")).collect();
                Self::Feature { feature: names.join(" or "), reason, offset }
            }
            None => Self::Invalid { reason, offset },
        }
    }
}

/// Looks a component over. Gives what it consists of.
pub(crate) fn check(component: &[u8], limits: &ComponentLimits) -> Result<Structure, Forbidden> {
    if !wasmparser::Parser::is_component(component) {
        return Err(Forbidden::NotAComponent);
    }
    Survey::new(limits).run(component)
}

/// For fuzzing: looks any bytes over, which must end in an answer.
#[doc(hidden)]
pub fn fuzz_admission(bytes: &[u8]) {
    let limits = ComponentLimits::default();
    if let Ok(structure) = check(bytes, &limits) {
        assert_eq!(structure.exceeded(&limits), None, "what passes is within the limits");
    }
}
