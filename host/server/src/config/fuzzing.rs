//! What the fuzzer calls.

use std::path::Path;

use super::Config;

/// Any bytes as a configuration: they must end in an answer, and what is understood can be meant.
#[doc(hidden)]
pub fn fuzz_configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = Config::parse(text, Path::new("/etc/stepbox")) {
        assert!(config.shard_threads() > 0, "a server without threads");
        assert!(config.state_directory.is_absolute(), "state that lies where the server happens to run");
    }
}
