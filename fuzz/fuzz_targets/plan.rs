//! What an optimizer plans for a tensor, up to where the server places a slice.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stepbox_sandbox::fuzz_plan(bytes));
