//! Records skipped tests, for tests that need something that not every machine has: a kernel feature, a program, or
//! root.
//!
//! Rust's test harness has no notion of a test that finds out at run time that it cannot run: a test that returns early
//! counts as passed. Such a test calls [`skip`] before it returns, and `cargo xtask test` lists it in its summary.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

use std::fs::OpenOptions;
use std::io::Write;

/// Environment variable with the path of the file to which skipped tests are appended, one line for each test.
pub const SKIPPED_TESTS: &str = "STEPBOX_SKIPPED_TESTS";

/// Reports that the current test cannot run on this machine, with the reason: on standard error, and in the file named
/// by [`SKIPPED_TESTS`].
///
/// # Panics
/// If the file cannot be written, because the skipped test would otherwise appear to pass.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    // The harness names a test's thread after the test, unless it runs one test at a time.
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("SKIPPED {line}");
    if let Some(path) = std::env::var_os(SKIPPED_TESTS) {
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the file of skipped tests");
        // A single write, so that output of other test processes does not interleave.
        file.write_all(line.as_bytes()).expect("the file of skipped tests can be written");
    }
}
