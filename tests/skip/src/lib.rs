//! For tests that need what not every machine has: a kernel feature, a program, root.
//!
//! Rust's test harness knows no test that finds out at run time that it cannot run: a test that returns early has passed.
//! Such a test calls [`skip`] before it returns, and `cargo xtask test` names it in its summary.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

use std::fs::OpenOptions;
use std::io::Write;

/// Environment variable with the path of the file that skipped tests are appended to, a line for each.
pub const SKIPPED_TESTS: &str = "STEPBOX_SKIPPED_TESTS";

/// Says that the current test cannot run on this machine, and why: on standard error, and in the file that
/// [`SKIPPED_TESTS`] names.
///
/// # Panics
/// The file cannot be written: the test would pass silently.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    // The harness names a test's thread after the test, unless it runs one test at a time.
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("SKIPPED {line}");
    if let Some(path) = std::env::var_os(SKIPPED_TESTS) {
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the file of skipped tests");
        // One write, so that tests of other processes do not come between.
        file.write_all(line.as_bytes()).expect("the file of skipped tests can be written");
    }
}
