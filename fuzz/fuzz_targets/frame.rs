//! A connection's bytes, as a server or a client reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stepbox_wire::fuzz_frame(bytes));
