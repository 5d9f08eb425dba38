//! What may reach the compiler: the first look at a component's bytes.
//!
//! One pass over all of it, nested modules and components included, before anything else is done with it. It must be
//! valid WebAssembly in exactly the features that the engine has ([`FEATURES`](crate::limits::FEATURES)), have no code that runs by itself, and
//! stay below the sizes of [`ComponentLimits`]. Sizes are looked at before the part they are of is validated. The parser
//! is the one that wasmtime uses itself, in the same version.
//!
//! This bounds what a component consists of, not what compiling it costs, which is no simple function of that: see
//! [`compiler`](crate::admission::compiler) for the rest.

mod survey;

use crate::error::Forbidden;
use crate::limits::ComponentLimits;
use survey::Survey;
pub(crate) use survey::Surveyed;

/// Looks a component over.
pub(crate) fn check(component: &[u8], limits: &ComponentLimits) -> Result<Surveyed, Forbidden> {
    if !wasmparser::Parser::is_component(component) {
        return Err(Forbidden::NotAComponent);
    }
    Survey::new(limits).run(component)
}

/// For fuzzing: looks any bytes over, which must end in an answer.
#[doc(hidden)]
pub fn fuzz_admission(bytes: &[u8]) {
    let limits = ComponentLimits::default();
    if let Ok(surveyed) = check(bytes, &limits) {
        assert_eq!(surveyed.structure.exceeded(&limits), None, "what passes is within the limits");
    }
}
