//! Components that import WASI: refused by default. If the operator allows them, WASI is available but empty.

mod common;

use common::component;
use stepbox_sandbox::{AdmittedComponent, CallFailure, Sandbox, SandboxConfig, SandboxError, StepError, WasiPolicy};

fn admit(name: &str, wasi: WasiPolicy) -> Result<AdmittedComponent, SandboxError> {
    Sandbox::new(SandboxConfig { wasi, ..SandboxConfig::default() }).unwrap().admit(&component(name))
}

#[test]
fn wasi_is_refused_by_default_and_the_message_says_what_to_configure() {
    let error = admit("hostile/wasi-probe", WasiPolicy::Refuse).err().unwrap();
    assert!(matches!(error, SandboxError::ForbiddenImport { .. }), "{error}");
    assert!(error.to_string().contains("sandbox.wasi = \"empty\""), "{error}");
}

#[test]
fn an_allowed_component_finds_no_files_environment_arguments_clock_or_entropy() {
    // The guest traps if WASI gives it anything.
    let admitted = admit("hostile/wasi-probe", WasiPolicy::Empty).unwrap();
    assert!(admitted.imports().iter().any(|import| import.starts_with("wasi:random/")));
    let settings = admitted.configure(None, &[]).unwrap();
    let mut training = common::Training::new(&admitted, settings, &[1.0; 64]);
    training.round(&[1.0; 64]).unwrap();
}

#[test]
fn waiting_ends_in_an_error_and_not_in_an_hour() {
    let error = admit("hostile/wasi-sleeper", WasiPolicy::Empty).err().unwrap();
    let SandboxError::Trial(StepError::Call(error)) = &error else { panic!("{error}") };
    assert!(matches!(&error.failure, CallFailure::Other(text) if text.contains("may not wait")), "{error}");
}
