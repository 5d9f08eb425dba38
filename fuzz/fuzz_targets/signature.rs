//! A `.wasm` that somebody wants deployed, up to the decision whether its signature is trusted.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stepbox_trust::fuzz_signature(bytes));
