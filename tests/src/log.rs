//! The log of all servers in this process.

use std::io;
use std::sync::{Condvar, Mutex, Once, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

use crate::HANGS;

static LOG: Log = Log { lines: Mutex::new(Vec::new()), written: Condvar::new() };

struct Log {
    lines: Mutex<Vec<String>>,
    written: Condvar,
}

/// A log line that is being written.
struct Line(Vec<u8>);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Shown if the test fails.
        print!("{}", String::from_utf8_lossy(&self.0));
        LOG.lines.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&self.0).into_owned());
        LOG.written.notify_all();
    }
}

struct Writer;

impl MakeWriter<'_> for Writer {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Vec::new())
    }
}

/// Starts logging, once per process.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(Writer).init());
}

/// Waits for a log line that contains all of `parts`. Tests run in parallel, so one part should be a name that only one
/// test uses.
pub fn logged(parts: &[&str]) -> String {
    // A test that fails below poisons the lock; other tests must not fail because of it.
    let mut lines = LOG.lines.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(line) = lines.iter().find(|line| parts.iter().all(|part| line.contains(part))) {
            return line.clone();
        }
        let (again, waited) = LOG.written.wait_timeout(lines, HANGS).unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "no log line with {parts:?}");
        lines = again;
    }
}

/// Whether there is a log line that contains all of `parts`: for lines that must not be logged, after their possible
/// cause is over.
pub fn is_logged(parts: &[&str]) -> bool {
    let lines = LOG.lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().any(|line| parts.iter().all(|part| line.contains(part)))
}
