//! What is refused before the compiler sees it, each thing with an error of its own.

mod common;

use common::{admit, component};

#[test]
fn survey_of_what_is_built() {
    for name in [
        "adamw",
        "soap",
        "shampoo",
        "sgld",
        "adafactor",
        "hostile/wasi-probe",
        "hostile/wasi-sleeper",
        "hostile/recursion",
        "benches/list-copying",
    ] {
        let config = stepbox_sandbox::SandboxConfig { wasi: stepbox_sandbox::WasiPolicy::Empty, ..Default::default() };
        match stepbox_sandbox::Sandbox::new(config).unwrap().admit(&component(name)) {
            Ok(a) => println!("{name}: {:?}", a.structure()),
            Err(e) => println!("{name}: {e}"),
        }
    }
    let _ = admit;
}
