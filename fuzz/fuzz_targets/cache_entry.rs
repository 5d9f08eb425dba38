//! A file in the cache of compiled components, up to the decision whether its code may be run.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stepbox_sandbox::fuzz_cache_entry(bytes));
