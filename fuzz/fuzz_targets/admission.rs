//! A component's bytes, up to the decision whether the compiler may see them: any bytes, and a real optimizer with some of
//! its bytes changed, where one has been built (`cargo xtask guests`).
#![no_main]

use std::sync::LazyLock;

static REAL: LazyLock<Option<Vec<u8>>> =
    LazyLock::new(|| std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guests/components/sgd.wasm")).ok());

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| match (bytes, &*REAL) {
    // No component begins so. What follows is changes: three bytes say where, one says to what.
    ([1, changes @ ..], Some(real)) => {
        let mut component = real.clone();
        for change in changes.chunks_exact(4) {
            let place = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % component.len();
            component[place] = change[3];
        }
        stepbox_sandbox::fuzz_admission(&component);
    }
    _ => stepbox_sandbox::fuzz_admission(bytes),
});
