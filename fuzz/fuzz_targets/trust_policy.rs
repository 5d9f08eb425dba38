//! The text of a trust policy, and what is asked of it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stepbox_trust::fuzz_trust_policy(bytes));
