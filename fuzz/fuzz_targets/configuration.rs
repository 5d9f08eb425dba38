//! A server's configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stepbox_server::fuzz_configuration(bytes));
