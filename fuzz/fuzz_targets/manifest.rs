//! What a component says it is, once a signature of it has been verified.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stepbox_trust::fuzz_manifest(bytes));
