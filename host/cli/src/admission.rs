//! What a server's sandbox says of a component, with default limits.

use std::sync::Arc;

use stepbox_sandbox::{
    AdmittedComponent, Broker, Compiler, CompilerLimits, Sandbox, SandboxConfig, SandboxError, WasiPolicy,
};
use stepbox_trust::Manifest;

/// Admits a component as a server would that allows WASI. It is compiled in a process of its own: nobody has verified
/// these bytes.
pub(crate) fn admit(component: &[u8]) -> Result<AdmittedComponent, SandboxError> {
    let config = SandboxConfig { wasi: WasiPolicy::Empty, ..SandboxConfig::default() };
    let broker = Broker::start(CompilerLimits::default()).map_err(|error| SandboxError::Compiler(error.to_string()))?;
    Sandbox::new(config)?.with_compiler(Compiler::Broker(Arc::new(broker))).admit(component)
}

/// Why every server refuses a component under the name that it was signed with, if it does.
pub(crate) fn wrong_name(own: &str, manifest: &Manifest) -> Option<String> {
    (manifest.own_name() != own).then(|| {
        format!(
            "the component calls itself `{own}` and every server refuses it as `{}`: sign it as `{own}`, with a namespace \
             before it or without (`team-a/{own}`)",
            manifest.name
        )
    })
}
