//! What is compared computes the same, to the bit.

use std::path::Path;

use stepbox_benches::overhead::{ListCopying, Options, Resident, Tensor, measure};
use stepbox_benches::turns::Contestant;
use stepbox_benches::{BenchError, Components, Effort};
use stepbox_guest::{Native, bench};
use stepbox_sandbox::{Sandbox, SandboxConfig};

fn components() -> Components {
    Components(Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components"))
}

/// Of neither a whole number of the loop's turns nor of vectors, and of more than one call.
const ELEMENTS: usize = (1 << 18) + 1030;

#[test]
fn lists_that_are_copied_give_the_bits_of_the_resident_component_and_of_native_code() {
    let tensor = Tensor::of(ELEMENTS);
    let adamw = Sandbox::new(SandboxConfig::default()).unwrap().admit(&components().read("adamw").unwrap()).unwrap();
    let mut resident = Resident::new(&adamw, &tensor).unwrap();
    let mut lists = ListCopying::new(&components().read("benches/list-copying").unwrap(), &tensor).unwrap();
    let elements = tensor.elements();
    let mut native = Native::new(optimizer_adamw::AdamW::default(), bench::parameters(elements));
    for _ in 0..5 {
        native.round(1e-3, &bench::gradient(elements));
    }
    let first = bench::digest(&bench::parameters(elements));
    assert_eq!((resident.digest().unwrap(), lists.digest()), (first, first));
    resident.steps(5).unwrap();
    lists.steps(5).unwrap();
    let expected = bench::digest(native.parameters());
    assert_ne!(first, expected);
    assert_eq!((resident.digest().unwrap(), lists.digest()), (expected, expected));
}

#[test]
fn a_component_that_is_not_there_is_an_error_that_says_how_to_make_it() {
    let effort = Effort { quick: true, progress: &|_| {} };
    let nowhere = Components("nowhere".into());
    let options = Options { components: nowhere, component: None, native_crate: None };
    let error = measure(&options, &effort).err().unwrap();
    assert!(matches!(error, BenchError::NoComponent { .. }));
    let message = error.to_string();
    assert!(message.contains("nowhere/adamw.wasm") && message.contains("cargo xtask guests"), "{message}");
}
