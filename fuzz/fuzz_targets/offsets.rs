//! Where an optimizer offers the server room.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stepbox_sandbox::fuzz_offsets(bytes));
